"""fsmn-vad on random weights: FunASR's scores, and nothing that depends on the pieces pushed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

from twostage_asr.encoders.fsmn_vad import FsmnVADConfig, FsmnVADEncoder
from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.vad import SegmentRules, SpeechSegmenter, load_vad

PEER = Path(__file__).parents[2] / "peers/funasr_vad.py"
ENCODER = {
    "input_dim": 400, "input_affine_dim": 140, "fsmn_layers": 4, "linear_dim": 250, "proj_dim": 128, "lorder": 20,
    "rorder": 0, "lstride": 1, "rstride": 0, "output_affine_dim": 140, "output_dim": 248,
}  # fmt: skip
FRONTEND = {
    "fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10, "dither": 0.0,
    "lfr_m": 5, "lfr_n": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published sizes, weights that let the silence class vary between 0 and 1."""
    directory = tmp_path_factory.mktemp("fsmn-vad")
    config = {
        "model": "FsmnVADStreaming", "model_conf": {"sample_rate": 16000, "sil_pdf_ids": [0]}, "encoder": "FSMN",
        "encoder_conf": ENCODER, "frontend": "WavFrontendOnline", "frontend_conf": FRONTEND,
    }  # fmt: skip
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    files = {"init_param": "model.pt", "config": "config.yaml", "frontend_conf": {"cmvn_file": "am.mvn"}}
    (directory / "configuration.json").write_text(json.dumps({"file_path_metas": files}))
    torch.manual_seed(1)
    sizes = {name: ENCODER[name] for name in FsmnVADConfig.__slots__}
    encoder = FsmnVADEncoder(FsmnVADConfig(**sizes))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=1.1 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1)
    last = encoder.out_linear2.linear
    last.weight.data *= 0.3
    last.bias.data[0] = 6.0
    torch.save({f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}, directory / "model.pt")
    shift, scale = torch.randn(400) - 12, torch.rand(400) * 0.2 + 0.1
    rows = {"AddShift": shift, "Rescale": scale}
    lines = [
        f"<{name}> 400 400\n<LearnRateCoef> 0 [ {' '.join(f'{v:.6f}' for v in row.tolist())} ]\n"
        for name, row in rows.items()
    ]
    (directory / "am.mvn").write_text("<Nnet>\n<Splice> 400 400\n[ 0 ]\n" + "".join(lines) + "</Nnet>\n")
    return directory


@pytest.fixture(scope="module")
def pcm() -> np.ndarray:
    """5 s whose loudness rises and falls."""
    rng = np.random.default_rng(0)
    loudness = 10 ** (-2 + 1.5 * np.sin(np.arange(80_123) / 6000))
    return (np.clip(loudness * rng.standard_normal(80_123), -1, 1) * 32767).astype(np.int16).astype(np.float32) / 32768


def test_the_scores_are_funasrs(checkpoint: Path, pcm: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "audio.wav", pcm, 16_000, subtype="PCM_16")
    command = [sys.executable, str(PEER), str(checkpoint), str(tmp_path / "audio.wav"), str(tmp_path / "scores.npz")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    theirs = 1.0 - np.load(tmp_path / "scores.npz")["scores"][:, 0]
    ours = load_vad(checkpoint).new_stream().push(pcm)
    assert np.ptp(theirs) > 0.5
    assert 2 <= len(theirs) - len(ours) < 2 + 8  # the last two see copies of the last frame, and blocks have eight
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=2e-4)


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 20_000), min_size=1))
@pytest.mark.parametrize("layout", ["checkpoint", "exported"])
def test_chunks_do_not_change_a_bit(
    checkpoint: Path, exported: Path, pcm: np.ndarray, layout: str, sizes: list[int]
) -> None:
    model = load_vad(checkpoint if layout == "checkpoint" else exported)
    edges = np.cumsum(sizes)
    live = model.new_stream()
    pieces = [live.push(piece) for piece in np.split(pcm, edges[edges < len(pcm)])]
    assert np.array_equal(np.concatenate(pieces), model.new_stream().push(pcm))


class Export(torch.nn.Module):
    """The network with the inputs and outputs of FunASR's streaming export."""

    def __init__(self, network: FsmnVADEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, speech: torch.Tensor, *caches: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.network.in_linear2(self.network.in_linear1(speech)).relu()
        following = []
        for layer, cache in zip(self.network.fsmn, caches, strict=True):
            assert isinstance(layer, torch.nn.Module)
            projected = layer.linear(x).transpose(1, 2)[..., None]
            known = torch.cat([cache, projected], 2)
            following.append(known[:, :, -cache.shape[2] :])
            x = layer.affine((layer.fsmn_block.conv_left(known) + projected)[..., 0].transpose(1, 2)).relu()
        return self.network.out_linear2(self.network.out_linear1(x)).softmax(-1), *following


def export(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, names: list[str]) -> None:
    """Write an ONNX file. torch needs the package onnx for functions that these modules do not have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda model_bytes, _: model_bytes)
        torch.onnx.export(module, inputs, path, dynamo=False, input_names=names, dynamic_axes={names[0]: {1: "T"}})


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as the ONNX export and am.mvn alone."""
    directory = tmp_path_factory.mktemp("fsmn-vad-onnx")
    shutil.copy(checkpoint / "am.mvn", directory)
    network = load_vad(checkpoint).network  # type: ignore[attr-defined]
    inputs = (torch.zeros(1, 8, 400), *(torch.zeros(1, 128, 19, 1) for _ in range(4)))
    caches = [f"in_cache{i}" for i in range(4)]
    export(Export(network), inputs, directory / "model.onnx", ["speech", *caches])
    return directory


def test_the_onnx_export_gives_the_same_probabilities(checkpoint: Path, exported: Path, pcm: np.ndarray) -> None:
    found, expected = (load_vad(each).new_stream().push(pcm) for each in (exported, checkpoint))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_frame_is_computed_twice(checkpoint: Path, pcm: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[int] = []
    model = load_vad(checkpoint)
    forward = FsmnVADEncoder.forward

    def counted(network: FsmnVADEncoder, features: torch.Tensor, memory: list[torch.Tensor]) -> object:
        frames.append(len(features))
        return forward(network, features, memory)

    monkeypatch.setattr(FsmnVADEncoder, "forward", counted)
    stream = model.new_stream()
    found = [stream.push(pcm[start : start + 160]) for start in range(0, len(pcm), 160)]
    assert sum(frames) == len(np.concatenate(found))


def test_an_export_without_memory_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / "am.mvn", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"neither")
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be read"):
        load_vad(tmp_path)
    layer = torch.nn.Linear(400, 248)
    export(layer, (torch.zeros(1, 8, 400),), tmp_path / "model.onnx", ["speech"])
    with pytest.raises(CheckpointError, match="streaming export is needed"):
        load_vad(tmp_path)


def test_it_finds_segments(checkpoint: Path, pcm: np.ndarray) -> None:
    segmenter = SpeechSegmenter(load_vad(checkpoint).new_stream(), SegmentRules())
    assert segmenter.push(pcm) + segmenter.finish()


def _without(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _changed(change: dict[str, Any]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        config = yaml.safe_load((directory / "config.yaml").read_text())
        for section, values in change.items():
            config[section] = config[section] | values if isinstance(values, dict) else values
        (directory / "config.yaml").write_text(yaml.safe_dump(config))

    return apply


def _short_cmvn(directory: Path) -> None:
    (directory / "am.mvn").write_text("<AddShift> 2 2\n<LearnRateCoef> 0 [ 1 2 ]\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("config.yaml"), "config.yaml cannot be read"),
        (_without("model.pt"), "model.pt"),
        (_without("am.mvn"), "am.mvn cannot be read"),
        (_short_cmvn, "400 numbers each"),
        (_changed({"model": "Paraformer"}), "only 'FsmnVADStreaming' is implemented"),
        (_changed({"encoder_conf": {"rorder": 1}}), "only 0 is implemented"),
        (_changed({"encoder_conf": {"proj_dim": 64}}), "does not hold the tensors"),
        (_changed({"frontend_conf": {"lfr_m": 4}}), "lfr_m must be odd"),
        (_changed({"model_conf": {"sil_pdf_ids": [248]}}), "output classes are needed"),
    ],
)
def test_other_checkpoints_are_refused(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_vad(tmp_path)
