"""The rules of live sessions, with a service that says what it is told: nothing is retracted, costs stay flat."""

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.streaming.listening import finals, hear, require_nothing_retracted
from tests.engine.streaming.scripted import FAILED, LoudIsSpeech, Model, ScriptedService, Submitted, speech
from twostage_asr.engine import (
    AsyncStreamingSession,
    ConfigError,
    Final,
    LiveOptions,
    Partial,
    QueueFullError,
    StreamingSession,
    Transcript,
    UnsupportedAudioError,
    transcribe_options,
)
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.families.fun_asr_nano import FunASRNano
from twostage_asr.engine.streaming import Event, samples_of
from twostage_asr.engine.streaming.text import token_prefix
from twostage_asr.engine.text import LLMTokenizer
from twostage_asr.engine.vad import SegmentRules

OPTIONS = transcribe_options()


@pytest.fixture(scope="module")
def model(engine_dirs: dict[str, Path]) -> Model:
    return Model(FunASRNano(), LLMTokenizer(engine_dirs["low_frame_rate"] / "llm"))


def scripted(service: ScriptedService, *, language: str | None = None, **options: Any) -> StreamingSession:
    asked = transcribe_options(language=language)
    live = LiveOptions(vad=LoudIsSpeech(), chunk_ms=500, **{"agreeing_partials": 2} | options)
    return StreamingSession(service, asked, live)  # type: ignore[arg-type]


TEXTS = st.sampled_from(
    ["", "one", "one two", "one two three", "One, two. Three four", "你好 one", "你好世界", "zero two three"]
)


@given(st.lists(TEXTS, min_size=1), st.booleans(), st.integers(0, 4))
def test_no_answers_can_make_a_session_retract(
    model: Model, answers: list[str], is_forced: bool, rollback_chars: int
) -> None:
    def answer(asked: Submitted) -> str:
        text = answers[len(service.submitted) % len(answers)]
        return asked.answer_prefix + text if is_forced or len(text) % 2 else text

    service = ScriptedService(model, answer)
    session = scripted(service, rollback_chars=rollback_chars, rules=SegmentRules(max_segment_s=2.0))
    require_nothing_retracted(hear(session, speech(5.0, 2.5, 1.5, 2.5), 1600))


def test_a_partial_goes_on_from_what_is_confirmed(model: Model) -> None:
    service = ScriptedService(model, lambda asked: "one two three four five"[: 4 + 5 * len(service.submitted)])
    events = hear(scripted(service, rollback_chars=4), speech(3.0, 2.5), 1600)
    confirmed = [""] + [event.confirmed for event in events if isinstance(event, Partial)]
    assert [asked.answer_prefix for asked in service.submitted if asked.is_partial] == confirmed[:-1]
    assert any(confirmed)


def test_only_what_two_partials_agree_on_is_confirmed_and_never_its_end(model: Model) -> None:
    answers = iter(["one two tree", "one two three", "one two three four", "one two three four five"])
    service = ScriptedService(model, lambda asked: next(answers))
    session = scripted(service, rollback_chars=5)
    events = [event for _ in range(4) for event in session.push(speech(0.5))]
    confirmed = [event.confirmed for event in events if isinstance(event, Partial)]
    assert confirmed == ["", "one two", "one two three", "one two three four"]


def test_the_end_is_not_confirmed_however_often_it_is_heard(model: Model) -> None:
    session = scripted(ScriptedService(model, lambda asked: "one two three"), rollback_chars=5)
    events = [event for _ in range(5) for event in session.push(speech(0.5))]
    assert [event.confirmed for event in events if isinstance(event, Partial)] == ["", *["one two"] * 4]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rollback_tokens": 2}, ["", "one two", "one two", "one two"]),
        ({"unfixed_partials": 4}, ["", "", "", "one two three four"]),
        ({"agreeing_partials": 3}, ["", "", "one two three four", "one two three four"]),
    ],
)
def test_tokens_and_first_partials_can_be_kept_open(model: Model, options: dict[str, int], expected: list[str]) -> None:
    session = scripted(ScriptedService(model, lambda asked: "one two three four"), rollback_chars=0, **options)
    events = [event for _ in range(4) for event in session.push(speech(0.5))]
    assert [event.confirmed for event in events if isinstance(event, Partial)] == expected


def test_three_partials_must_agree_unless_it_is_said_otherwise(model: Model) -> None:
    """Of two in a row the second at times repeats a mistake that the final does not make."""
    service = ScriptedService(model, lambda asked: "one two three four")
    live = LiveOptions(vad=LoudIsSpeech(), chunk_ms=500, rollback_chars=0)
    session = StreamingSession(service, OPTIONS, live)  # type: ignore[arg-type]
    events = [event for _ in range(4) for event in session.push(speech(0.5))]
    assert [event.confirmed for event in events if isinstance(event, Partial)] == ["", "", *["one two three four"] * 2]


@pytest.mark.parametrize("language", [None, "auto"])
def test_the_language_that_was_heard_is_asked_for_with_what_is_confirmed(model: Model, language: str | None) -> None:
    service = ScriptedService(model, lambda asked: "one two three", language="en")
    hear(scripted(service, language=language, rollback_chars=5), speech(2.0, 2.5), 8000)
    first, second, *later, final = [(one.answer_prefix, one.language) for one in service.submitted]
    assert first == second == final == ("", language)
    assert set(later) == {("one two", "en")}


def test_a_partial_is_made_once_a_chunk(model: Model) -> None:
    service = ScriptedService(model, lambda asked: "words")
    session = scripted(service)
    pcm = speech(5.0)
    ends = [event.end for start in range(0, len(pcm), 800) for event in session.push(pcm[start : start + 800])]
    assert ends == pytest.approx([0.5 * i for i in range(1, 11)])


@pytest.mark.parametrize(
    ("first", "later", "pause_s", "num_finals"),
    [
        ("One.", "Two three.", 0.9, 3),
        ("One.", "Two three", 0.9, 2),
        ("One.", "Two three...", 0.9, 2),
        ("One.", "Two three", 1.4, 3),
        ("one", "two three", 0.9, 3),  # this model may write no marks at all
        ("One.", "", 0.9, 3),
    ],
)
@pytest.mark.parametrize("chunk_ms", [500, 60_000])  # with the second, only a pause makes a partial due
def test_a_pause_within_a_sentence_ends_no_segment(
    model: Model, first: str, later: str, pause_s: float, num_finals: int, chunk_ms: float
) -> None:
    def answer(asked: Submitted) -> str:
        return first if all(each.is_partial for each in service.submitted[:-1]) else later

    service = ScriptedService(model, answer)
    session = StreamingSession(service, OPTIONS, LiveOptions(vad=LoudIsSpeech(), chunk_ms=chunk_ms))  # type: ignore[arg-type]
    assert len(finals(hear(session, speech(1.0, 2.0, 1.0, pause_s, 1.0, 2.0), 1600))) == num_finals


def test_a_model_that_writes_no_marks_in_a_language_makes_one_segment_wait(model: Model) -> None:
    def answer(asked: Submitted) -> str:
        return "One." if all(each.is_partial for each in service.submitted[:-1]) else "two"

    service = ScriptedService(model, answer)
    session = StreamingSession(service, OPTIONS, LiveOptions(vad=LoudIsSpeech()))  # type: ignore[arg-type]
    assert len(finals(hear(session, speech(1.0, 2.0, 1.0, 1.4, 1.0, 0.9, 1.0, 2.0), 1600))) == 4


@pytest.mark.parametrize(("first", "num_finals"), [("One.", 3), ("一。", 2)])
def test_marks_in_another_script_make_no_segment_wait(model: Model, first: str, num_finals: int) -> None:
    def answer(asked: Submitted) -> str:
        return first if all(each.is_partial for each in service.submitted[:-1]) else "二三"

    service = ScriptedService(model, answer)
    session = StreamingSession(service, OPTIONS, LiveOptions(vad=LoudIsSpeech()))  # type: ignore[arg-type]
    assert len(finals(hear(session, speech(1.0, 2.0, 1.0, 0.9, 1.0, 2.0), 1600))) == num_finals


def test_words_beyond_a_cut_are_kept_for_the_next_segment(model: Model) -> None:
    def answer(asked: Submitted) -> str:
        if asked.is_partial:
            return asked.answer_prefix or "one two three four"
        return asked.answer_prefix or "One two."

    service = ScriptedService(model, answer)
    session = scripted(service, rollback_chars=0, rules=SegmentRules(max_segment_s=2.0))
    events = session.push(speech(1.2)) + session.push(speech(0.7)) + session.push(speech(0.6))
    after = events[[type(event) for event in events].index(Final) :]
    assert [(type(e), e.text) for e in after] == [(Final, "one two"), (Partial, "three four"), (Partial, "three four")]
    assert all(event.confirmed == "three four" for event in after[1:] if isinstance(event, Partial))


def test_a_segment_that_fails_keeps_what_was_confirmed(model: Model) -> None:
    service = ScriptedService(model, lambda asked: "one two three" if asked.is_partial else None)
    session = scripted(service, rollback_chars=5)
    for _ in range(4):
        session.push(speech(0.5))
    service.answer = lambda asked: FAILED
    (final,) = finals(session.push(speech(0.0, 2.5)))
    assert (final.text, final.transcript.status, final.transcript.error) == ("one two", "ok", None)
    assert [segment.text for segment in final.transcript.segments] == ["one two"]
    (warning,) = final.transcript.warnings
    assert (warning.code, warning.message) == ("segment_failed", "only what was confirmed is known: it failed")


def test_an_hour_costs_sixty_times_a_minute(model: Model) -> None:
    service = ScriptedService(model, lambda asked: "some words")
    session = scripted(service)
    minute = speech(12.0, 3.0, 8.0, 3.0, 31.0, 3.0)
    encoded = []
    for _ in range(60):
        before = len(service.submitted)
        for start in range(0, len(minute), 8000):
            session.push(minute[start : start + 8000])
        encoded.append(sum(asked.duration for asked in service.submitted[before:]))
    assert encoded[1:] == pytest.approx([encoded[1]] * 59)
    assert max(asked.duration for asked in service.submitted) <= 31.0
    assert session._stream._recent.end_s - session._stream._recent._first / SAMPLE_RATE < 31.0


def test_silence_costs_nothing(model: Model) -> None:
    service = ScriptedService(model, lambda asked: "words")
    session = scripted(service)
    assert hear(session, speech(0.0, 60.0), 1600) == []
    assert service.submitted == [] and len(session._stream._recent._pieces) < 10


def test_a_full_service_costs_partials_but_no_final(model: Model) -> None:
    service = ScriptedService(model, lambda asked: "words", is_full=True)
    session = scripted(service)
    assert session.push(speech(2.0)) == []
    with pytest.raises(QueueFullError):
        session.push(speech(0.0, 2.5))
    with pytest.raises(QueueFullError):
        session.finish()
    service.is_full = False
    assert [event.text for event in session.finish()] == ["words"]


def test_a_service_that_is_full_for_one_final_costs_none_of_the_others(model: Model) -> None:
    """A service in another process says that it is full only in the future."""

    def answer(asked: Submitted) -> str | None:
        if len(service.submitted) == 2:
            asked.future.set_exception(QueueFullError("full"))
            return None
        return f"text {len(service.submitted)}"

    service = ScriptedService(model, answer)
    session = scripted(service)
    with pytest.raises(QueueFullError):
        session.push(speech(2.0, 2.0, 2.0, 2.0, 2.0, 2.0))  # three segments
    assert [event.text for event in session.finish()] == ["text 1", "text 4", "text 3"]


def test_the_loop_is_free_while_a_session_waits(model: Model) -> None:
    service = ScriptedService(model, lambda asked: None)
    live = LiveOptions(vad=LoudIsSpeech())

    async def listen() -> list[Event]:
        session = AsyncStreamingSession(service, OPTIONS, live)  # type: ignore[arg-type]
        pushing = asyncio.create_task(session.push(speech(2.0)))
        while not service.submitted:
            await asyncio.sleep(0)
        service.submitted[0].future.set_result(Transcript(key="k", text="words"))
        return await pushing

    assert [event.text for event in asyncio.run(listen())] == ["words"]


def test_a_cancelled_push_drops_its_decoding(model: Model) -> None:
    service = ScriptedService(model, lambda asked: None)
    live = LiveOptions(vad=LoudIsSpeech())

    async def listen() -> Future[Transcript]:
        session = AsyncStreamingSession(service, OPTIONS, live)  # type: ignore[arg-type]
        pushing = asyncio.create_task(session.push(speech(2.0)))
        while not service.submitted:
            await asyncio.sleep(0)
        pushing.cancel()
        await asyncio.wait([pushing])
        return service.submitted[0].future

    assert asyncio.run(listen()).cancelled()


# --- Samples and tokens


def test_a_session_that_has_ended_takes_nothing_more(model: Model) -> None:
    session = scripted(ScriptedService(model, lambda asked: "one"))
    assert len(finals(session.push(speech(1.0)) + session.finish())) == 1
    assert session.finish() == []
    with pytest.raises(ConfigError, match="this session has ended"):
        session.push(speech(1.0))


def test_a_session_is_for_one_caller_at_a_time(model: Model) -> None:
    service = ScriptedService(model, lambda asked: None)
    session = AsyncStreamingSession(service, OPTIONS, LiveOptions(vad=LoudIsSpeech(), chunk_ms=500))  # type: ignore[arg-type]

    async def both() -> list[Event]:
        first = asyncio.create_task(session.push(speech(1.0)))
        while not service.submitted:
            await asyncio.sleep(0)
        with pytest.raises(ConfigError, match="one caller at a time"):
            await session.push(speech(1.0))
        service.submitted[0].future.set_result(Transcript("live", text="one"))
        return await first

    assert [event.text for event in asyncio.run(both())] == ["one"]


def test_a_session_goes_on_after_ctrl_c(model: Model) -> None:
    class Interrupted(Future[Transcript]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            raise KeyboardInterrupt

    service = ScriptedService(model, lambda asked: "one")
    session = scripted(service)
    submit = service.submit
    service.submit = lambda *args, **options: Interrupted()  # type: ignore[method-assign]
    try:
        session.push(speech(1.0))
    except KeyboardInterrupt:
        service.submit = submit  # type: ignore[method-assign]
        assert [event.text for event in finals(session.finish())] == ["one"]


def test_a_closed_model_opens_no_session(model: Model) -> None:
    closed = Model(model.family, model.tokenizer)
    closed.lock.close()
    with pytest.raises(ConfigError, match="this model is closed"):
        scripted(ScriptedService(closed, lambda asked: "one"))


def test_bytes_integers_and_floats_are_the_same_samples() -> None:
    integers = np.array([0, 1, -32768, 32767], np.int16)
    for pcm in (integers, integers.tobytes(), (integers / 32768).astype(np.float32)):
        assert samples_of(pcm).tolist() == [0.0, 1 / 32768, -1.0, 32767 / 32768]


@pytest.mark.parametrize(
    ("pcm", "message"),
    [
        (b"123", "even number of bytes, got 3"),
        (np.zeros(3), "got float64 of shape"),
        ([0.0, 0.0], "got list"),
        (np.zeros((2, 3), np.int16), r"shape \(2, 3\)"),
        (np.array([0.0, np.nan], np.float32), "1 of 2 samples are NaN"),
    ],
)
def test_other_samples_are_refused(pcm: Any, message: str) -> None:
    with pytest.raises(UnsupportedAudioError, match=message):
        samples_of(pcm)


@given(
    text=st.text(st.sampled_from("The train leaves at 8:15 今天北京的天气怎么样？😀é"), max_size=30),
    limit=st.integers(-3, 30),
)
def test_a_token_prefix_is_a_beginning_in_whole_tokens(model: Model, text: str, limit: int) -> None:
    prefix = token_prefix(model.tokenizer, text, limit)
    assert text.startswith(prefix)
    assert len(prefix) <= max(0, limit)
    token_ids = model.tokenizer.encode(prefix)
    assert model.tokenizer.encode(text)[: len(token_ids)] == token_ids


def test_an_unknown_language_is_refused_before_any_audio(model: Model) -> None:
    with pytest.raises(ConfigError, match="'Klingon' is unknown"):
        StreamingSession(
            ScriptedService(model, lambda asked: ""),  # type: ignore[arg-type]
            transcribe_options(language="Klingon"),
            LiveOptions(vad=LoudIsSpeech()),
        )


@pytest.mark.parametrize("size", [1, 3, 3201])
def test_pieces_may_end_in_the_middle_of_a_sample(model: Model, size: int) -> None:
    """And a stray byte at the end costs no sentence: the last final says that it was there."""
    pcm = (speech(1.0, 2.5, 0.5) * 32767).astype("<i2").tobytes()
    pieces = [pcm[start : start + size] for start in range(0, len(pcm), size)] if size > 1 else [pcm[:1], pcm[1:]]
    session = scripted(ScriptedService(model, lambda asked: "words"))
    events = [event for piece in [*pieces, b"x"] for event in session.push(piece)] + session.finish()
    assert [final.text for final in finals(events)] == ["words", "words"]
    assert [[w.code for w in final.transcript.warnings] for final in finals(events)] == [[], ["stray_byte"]]
