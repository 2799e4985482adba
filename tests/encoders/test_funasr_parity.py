"""Ours equals FunASR 1.4.16 on the same weights and audio, float32, on the CPU.

FunASR runs in a process of its own (tests/peers/funasr_reference.py); see there why.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

from twostage_asr.encoders.fbank import WINDOW_SAMPLES, graph_fbank, log_mel_fbank, stack_frames
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic

PEER = Path(__file__).parents[1] / "peers/funasr_reference.py"
CLIP_LENS = (2000, 21_777, 300, 192_000)  # samples; the third is shorter than one window, the last lasts 12 s


def chirp_in_noise(num_samples: int, generator: torch.Generator) -> Tensor:
    seconds = torch.arange(num_samples) / 16_000
    tone = torch.sin(2 * torch.pi * (150 + 300 * seconds) * seconds)
    return 0.2 * tone * torch.rand(1, generator=generator) + 0.03 * torch.randn(num_samples, generator=generator)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clips")
    generator = torch.Generator().manual_seed(0)
    lines = []
    for num_samples in CLIP_LENS:
        source = f"{num_samples}.wav"
        soundfile.write(directory / source, chirp_in_noise(num_samples, generator).numpy(), 16_000, subtype="FLOAT")
        lines.append(json.dumps({"source": source, "language": None, "hotwords": [], "itn": True}) + "\n")
    path = directory / "clips.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def reference(micro_dir: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """FunASR's numbers for each clip, with the waveform."""
    out = tmp_path_factory.mktemp("funasr")
    command = [
        sys.executable,
        str(PEER),
        str(micro_dir),
        str(clips),
        str(out),
        "--threads",
        "1",
        "--max-new-tokens",
        "1",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(CLIP_LENS)
    waveforms = [torch.from_numpy(soundfile.read(clips.parent / f"{n}.wav", dtype="float32")[0]) for n in CLIP_LENS]
    return [line | load_file(out / line["tensors"]) | {"waveform": w} for line, w in zip(lines, waveforms, strict=True)]


@pytest.fixture(scope="session")
def batch(reference: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """All clips in one padded batch, as the engine would run them."""
    waveforms = [clip["waveform"] for clip in reference]
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), torch.tensor([len(w) for w in waveforms])


def assert_rows_close(ours: Tensor, reference: list[dict[str, Any]], name: str, tolerance: float) -> None:
    for row, clip in zip(ours, reference, strict=True):
        expected = clip[name]
        torch.testing.assert_close(
            row[: len(expected)], expected, atol=tolerance, rtol=0, msg=lambda text: f"{name}: {text}"
        )


def test_features(reference: list[dict[str, Any]], batch: tuple[Tensor, Tensor]) -> None:
    features, lens = stack_frames(*log_mel_fbank(*batch))
    assert lens.tolist() == [len(clip["features"]) for clip in reference]
    assert_rows_close(features, reference, "features", 2e-3)


def test_features_of_a_graph(reference: list[dict[str, Any]], batch: tuple[Tensor, Tensor]) -> None:
    waveforms, sample_lens = batch
    has_window = sample_lens >= WINDOW_SAMPLES
    features, _ = stack_frames(*graph_fbank(waveforms[has_window], sample_lens[has_window]))
    clips = [clip for clip, has in zip(reference, has_window.tolist(), strict=True) if has]
    assert len(clips) > 1
    assert_rows_close(features, clips, "features", 2e-3)


def test_modules_on_the_references_features(acoustic: FunASRNanoAcoustic, reference: list[dict[str, Any]]) -> None:
    features = torch.nn.utils.rnn.pad_sequence([clip["features"] for clip in reference], batch_first=True)
    lens = torch.tensor([len(clip["features"]) for clip in reference])
    encoder_out = acoustic.audio_encoder(features, lens)
    assert_rows_close(encoder_out, reference, "encoder_out", 1e-4)
    assert_rows_close(acoustic.audio_adaptor(encoder_out, lens)[0], reference, "adaptor_out", 1e-4)
    assert acoustic.ctc_head is not None
    log_probs = acoustic.ctc_head.log_probs(acoustic.ctc_head.hidden(encoder_out, lens))
    assert_rows_close(log_probs, reference, "ctc_log_probs", 1e-3)


def test_stage_1_as_a_whole(
    acoustic: FunASRNanoAcoustic, reference: list[dict[str, Any]], batch: tuple[Tensor, Tensor]
) -> None:
    encoded = acoustic.encode(*batch)
    assert encoded.audio_lens.tolist() == [clip["audio_count"] for clip in reference]
    for row, count, clip in zip(encoded.audio_embeds, encoded.audio_lens.tolist(), reference, strict=True):
        torch.testing.assert_close(row[:count], clip["adaptor_out"][:count], atol=1e-3, rtol=0)
