"""qwen-asr's streaming interface on a tiny checkpoint with random weights: its names, its state, one model for all."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests import tiny_models
from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM, ConfigError, Qwen3ASRModel, TranscriptionService
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.streaming import qwen
from twostage_asr.engine.transcriber import Transcriber


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qwen3ASRModel]:
    directory = tmp_path_factory.mktemp("qwen") / "asr"
    tiny_models.qwen3_asr(directory)
    engine = AutoModelVLLM(directory, backend="torch", dtype="fp32", encoder_dtype="fp32")
    with Qwen3ASRModel(engine, max_new_tokens=12) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def speech(clips: list[Clip]) -> Any:
    """One clip, with silence around it."""
    quiet = np.zeros(SAMPLE_RATE, np.float32)
    return np.concatenate([quiet, load(expand_inputs(clips[2]["source"])[0]), quiet])


def stream(model: Qwen3ASRModel, pcm: Any, size: int, **options: Any) -> list[tuple[str, str]]:
    """Language and text after each piece, and at the end."""
    state = model.init_streaming_state(chunk_size_sec=1.0, **options)
    states = []
    for start in range(0, len(pcm), size):
        assert model.streaming_transcribe(pcm[start : start + size], state) is state
        states.append((state.language, state.text))
    model.finish_streaming_transcribe(state)
    return [*states, (state.language, state.text)]


def test_text_comes_while_it_is_spoken(model: Qwen3ASRModel, speech: Any) -> None:
    states = stream(model, speech, 4000, language="English", context="numbers")
    assert states[0] == ("", "")
    assert len(set(states)) > 2
    assert states[-1][0] == "English" and states[-1][1]


def test_integers_and_columns_are_the_same_samples(model: Qwen3ASRModel, speech: Any) -> None:
    integers = np.round(speech * 32767).astype(np.int16)
    floats = (integers / 32768.0).reshape(-1, 1)
    assert floats.dtype == np.float64
    assert stream(model, integers, 16_000) == stream(model, floats, 16_000)


def test_streams_share_the_model_until_the_last_is_finished(model: Qwen3ASRModel, speech: Any) -> None:
    nothing_is_kept = {"language": "zh", "unfixed_chunk_num": 99}  # random weights often change their mind
    expected = stream(model, speech, 16_000, **nothing_is_kept)[-1]
    first, second = (model.init_streaming_state(**nothing_is_kept) for _ in range(2))
    with pytest.raises(ConfigError, match=r"2 stream\(s\) are open"):
        model.transcribe((speech, SAMPLE_RATE))
    for state in (first, second):
        model.streaming_transcribe(speech, state)
        model.finish_streaming_transcribe(state)
        assert (state.language, state.text) == expected
    with pytest.raises(ConfigError, match="this stream is finished"):
        model.streaming_transcribe(speech, first)
    assert len(model.transcribe((speech, SAMPLE_RATE))) == 1


def test_streams_may_be_opened_in_several_threads_at_once(
    model: Qwen3ASRModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Event()
    starts = list[None]()

    def slow(transcriber: Transcriber) -> TranscriptionService:
        starts.append(None)
        if len(starts) > 1:
            both.set()
        both.wait(0.1)
        return TranscriptionService(transcriber)

    monkeypatch.setattr(qwen, "TranscriptionService", slow)
    with ThreadPoolExecutor(2) as pool:
        states = list(pool.map(lambda _: model.init_streaming_state(), range(2)))
    assert len(starts) == 1
    for state in states:
        model.finish_streaming_transcribe(state)


def test_a_stream_that_was_dropped_is_not_open(model: Qwen3ASRModel, speech: Any) -> None:
    dropped = model.init_streaming_state()
    model.streaming_transcribe(speech[:SAMPLE_RATE], dropped)
    with pytest.raises(ConfigError, match=r"1 stream\(s\) are open"):
        model.transcribe((speech, SAMPLE_RATE))
    del dropped
    assert len(model.transcribe((speech, SAMPLE_RATE))) == 1
    kept = model.init_streaming_state()
    model.streaming_transcribe(speech, kept)
    model.finish_streaming_transcribe(kept)
    assert kept.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size_sec": 0}, "chunk_ms must be positive"),
        ({"unfixed_token_num": -1}, "rollback_tokens must be 0 or more"),
        ({"unfixed_chunk_num": -1}, "unfixed_partials must be 0 or more"),
        ({"language": "Klingon"}, "'Klingon' is unknown"),
    ],
)
def test_wrong_options_are_refused_and_open_nothing(
    model: Qwen3ASRModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        model.init_streaming_state(**options)
    model._streams.require_none()
