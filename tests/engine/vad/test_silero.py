"""Our use of silero-vad's network: what the package's own model says, and nothing that depends on the pieces pushed."""

import subprocess
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline import Clip
from twostage_asr.engine import ConfigError
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.vad import SegmentRules, SpeechSegmenter, SpeechSpan, load_vad, silero
from twostage_asr.engine.vad.onnx_file import OnnxGraph
from twostage_asr.engine.vad.silero_network import SileroNetwork

MODEL = load_vad()


@pytest.fixture(scope="module")
def speech(clips: list[Clip]) -> np.ndarray:
    """20 s with pauses."""
    waveforms = [decode_audio(Path(clip["source"])) for clip in clips if clip["text"]]
    return np.concatenate(waveforms)[: 20 * 16_000]


def test_the_probabilities_are_those_of_the_packages_model(speech: np.ndarray) -> None:
    spec = find_spec("silero_vad")
    assert spec is not None and spec.origin is not None
    theirs = torch.jit.load(Path(spec.origin).parent / "data/silero_vad.jit")  # type: ignore[no-untyped-call]
    windows, level = [], 0.0
    for window in speech[: len(speech) // 512 * 512].reshape(-1, 1, 512):
        level = max(level * 0.1 ** (0.032 / 5), float(np.sqrt((window**2).mean())))  # it falls by 20 dB in 5 s
        windows.append(torch.from_numpy(window * np.float32(min(0.1 / max(level, 1e-9), 3.0))))
    with torch.inference_mode():
        for _ in range(16):  # a stream begins after half a second of zeros
            theirs(torch.zeros(1, 512), 16_000)
        expected = [theirs(window, 16_000).item() for window in windows]
    np.testing.assert_allclose(MODEL.new_stream().push(speech), expected, atol=1e-4)


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 50_000), min_size=1))
def test_chunks_do_not_change_a_bit(speech: np.ndarray, sizes: list[int]) -> None:
    whole, live = MODEL.new_stream(), MODEL.new_stream()
    edges = np.cumsum(sizes)
    pieces = [live.push(piece) for piece in np.split(speech, edges[edges < len(speech)])]
    assert np.array_equal(np.concatenate(pieces), whole.push(speech))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_number_of_threads_does_not_change_a_bit(
    speech: np.ndarray, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silero, "usable_cores", lambda: num_threads)
    found = silero.SileroVAD().new_stream().push(speech)
    live = MODEL.new_stream()
    windows = speech[: len(found) * 512].reshape(-1, 512)
    assert np.array_equal(found, np.concatenate([live.push(window) for window in windows]))


def test_a_long_push_is_not_in_memory_a_second_time() -> None:
    noise = np.random.default_rng(0).standard_normal(16_000 * 600).astype(np.float32)
    stream = MODEL.new_stream()
    tracemalloc.start()
    stream.push(noise)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < noise.nbytes / 2


def test_another_network_is_refused(tmp_path: Path) -> None:
    graph = OnnxGraph()
    graph.node("Relu", "x", outputs=["y"])
    path = tmp_path / "other.onnx"
    path.write_bytes(graph.model({"x": ["N"]}, {"y": ["N"]}))
    with pytest.raises(ConfigError, match=r"other\.onnx is not the network of silero-vad 6\.2"):
        SileroNetwork(path)


def test_sentences_between_pauses_are_found(clips: list[Clip]) -> None:
    """Where the synthesizer says that words are."""
    spoken = [clip for clip in clips if clip["words"]][:4]
    pause = np.zeros(3 * 16_000, np.float32)
    pieces, expected, position = [pause], [], 3.0
    for clip in spoken:
        waveform = decode_audio(Path(clip["source"]))
        pieces += [waveform, pause]
        expected.append((position + clip["words"][0][1], position + clip["words"][-1][2]))
        position += len(waveform) / 16_000 + 3.0
    segmenter = SpeechSegmenter(MODEL.new_stream(), SegmentRules())
    spans = segmenter.push(np.concatenate(pieces)) + segmenter.finish()
    assert len(spans) == len(expected)
    for span, (start, end) in zip(spans, expected, strict=True):
        assert start - 0.4 < span.start < start + 0.05
        assert end - 0.05 < span.end < end + 0.5


def test_quiet_sentences_open_the_segments_of_loud_ones(speech: np.ndarray) -> None:
    def spans(decibels: float) -> list[SpeechSpan]:
        segmenter = SpeechSegmenter(MODEL.new_stream(), SegmentRules())
        return segmenter.push((speech * 10 ** (decibels / 20)).astype(np.float32)) + segmenter.finish()

    loud, quiet = spans(0.0), spans(-30.0)
    assert len(loud) == len(quiet)
    for one, other in zip(loud, quiet, strict=True):
        assert (other.start, other.end) == pytest.approx((one.start, one.end), abs=0.1)


@pytest.mark.parametrize("level", [0.0, 0.001, 0.1])
def test_noise_is_no_speech(level: float) -> None:
    noise = (level * np.random.default_rng(0).standard_normal(30 * 16_000)).astype(np.float32)
    segmenter = SpeechSegmenter(MODEL.new_stream(), SegmentRules())
    spans: list[SpeechSpan] = segmenter.push(noise) + segmenter.finish()
    assert all(span.end < 0.6 for span in spans)  # hiss that sets in with the stream may open a short segment


def test_it_needs_no_torch() -> None:
    check = "import sys; from twostage_asr.engine.vad import load_vad; load_vad(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="'silero' or the directory"):
        load_vad("webrtc")
