"""FunASR's streaming SDK: its names, its fields, one result a chunk, and a fixed text that only grows."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_voices import FakeVoices
from tests.pipeline import Clip
from twostage_asr.engine import AudioError, ConfigError, Final, FunASRNanoStreamingVLLM
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.streaming import Event


@pytest.fixture(scope="module")
def engine(engine_dirs: dict[str, Path]) -> Iterator[FunASRNanoStreamingVLLM]:
    options = {"backend": "torch", "dtype": "fp32", "encoder_dtype": "fp32"}
    with FunASRNanoStreamingVLLM.from_pretrained(
        engine_dirs["low_frame_rate"], chunk_ms=720, rollback_chars=8, **options
    ) as engine:
        yield engine


def test_results_have_funasrs_fields_and_their_fixed_text_only_grows(
    engine: FunASRNanoStreamingVLLM, clips: list[Clip]
) -> None:
    clip = next(clip for clip in clips if clip["key"] == "en_07")
    results = list(engine.streaming_generate(clip["source"], language="英文"))
    duration_ms = results[-1]["audio_duration_ms"]
    assert [result["chunk_idx"] for result in results] == list(range(1, len(results) + 1))
    assert [result["audio_duration_ms"] for result in results[:-1]] == [720.0 * i for i in range(1, len(results))]
    assert 720 * (len(results) - 1) < duration_ms <= 720 * len(results)
    assert [result["is_final"] for result in results] == [False] * (len(results) - 1) + [True]
    assert results[-1]["text"] == results[-1]["fixed_text"] == clip["text"]
    fixed = ""
    for result in results:
        assert result["fixed_text"].startswith(fixed) and result["text"].startswith(result["fixed_text"])
        fixed = result["fixed_text"]
    assert any(result["fixed_text"] for result in results[:-1])


def test_silence_gives_empty_results(engine: FunASRNanoStreamingVLLM, clips: list[Clip]) -> None:
    silence = next(clip for clip in clips if not clip["text"])
    results = list(engine.streaming_generate(silence["source"]))
    assert results and {result["text"] for result in results} == {""}


def test_what_cannot_be_heard_is_an_error(engine: FunASRNanoStreamingVLLM) -> None:
    with pytest.raises(ConfigError, match="one input, got 2"):
        next(engine.streaming_generate(["a.wav", "b.wav"]))
    with pytest.raises(AudioError, match="nowhere"):
        next(engine.streaming_generate("nowhere.wav"))
    with pytest.raises(ConfigError, match=r"unknown argument 'langauge' \(did you mean 'language'\?\)"):
        next(engine.streaming_generate("nowhere.wav", langauge="en"))
    with pytest.raises(ConfigError, match="'Klingon' is unknown"):
        engine.session(language="Klingon")
    with pytest.raises(ConfigError, match="num_speakers need speakers=True"):
        engine.session(num_speakers=2)
    with pytest.raises(ConfigError, match="unknown argument 'speakers'"):
        next(engine.streaming_generate("nowhere.wav", speakers=True))


def test_finals_say_who_speaks_and_known_speakers_have_their_names(
    engine: FunASRNanoStreamingVLLM, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform = decode_audio(Path(next(clip for clip in clips if clip["text"])["source"]))
    monkeypatch.setattr(engine._model.transcriber.speakers, "_model", FakeVoices(lambda waveform: 3))
    for known, name in (({}, "SPK0"), ({"Ana": waveform}, "Ana")):
        session = engine.session(speakers=True, known_speakers=known)
        (final,) = [event for event in [*session.push(waveform), *session.finish()] if isinstance(event, Final)]
        assert {segment.speaker for segment in final.transcript.segments} == {name}
        assert session.relabel() == {name: name}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_ms": 0}, "chunk_ms must be positive, got 0"),
        ({"rollback_chars": -1}, "rollback_chars must be 0 or more, got -1"),
        ({"vad": "nowhere"}, "vad must be 'silero' or the directory"),
        ({"max_segment_s": 1}, "max_segment_s must be at least 2 s"),
        ({"silence_schedule": [(5, 5)]}, "the last one infinite"),
        ({"backnd": "torch"}, "did you mean 'backend'"),
    ],
)
def test_wrong_options_are_refused(engine_dirs: dict[str, Path], options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FunASRNanoStreamingVLLM.from_pretrained(engine_dirs["low_frame_rate"], **options)


def test_both_kinds_of_session_hear_the_same(engine: FunASRNanoStreamingVLLM, clips: list[Clip]) -> None:
    clip = next(clip for clip in clips if clip["hotwords"])
    asked = {"language": clip["language"], "hotwords": clip["hotwords"], "itn": clip["itn"], "key": "mine"}
    pcm = decode_audio(Path(clip["source"]))

    async def listen() -> list[Event]:
        session = engine.async_session(**asked)
        return await session.push(pcm) + await session.finish()

    session = engine.session(**asked)
    events = session.push(pcm) + session.finish()
    assert asyncio.run(listen()) == events
    (final,) = (event for event in events if isinstance(event, Final))
    assert (final.text, final.transcript.key) == (clip["text"], "mine")
