"""Finals ahead of time: what silence is about to close is decoded before that, and dropped if somebody goes on."""

from pathlib import Path

import pytest

from tests.engine.streaming.listening import finals
from tests.engine.streaming.scripted import LoudIsSpeech, Model, ScriptedService, Submitted, speech
from twostage_asr.engine import LiveOptions, QueueFullError, StreamingSession, transcribe_options
from twostage_asr.engine.families.fun_asr_nano import FunASRNano
from twostage_asr.engine.text import LLMTokenizer

BLOCK = speech(0.0, 0.1)  # of silence; 0.7 s close a segment


@pytest.fixture(scope="module")
def model(engine_dirs: dict[str, Path]) -> Model:
    return Model(FunASRNano(), LLMTokenizer(engine_dirs["low_frame_rate"] / "llm"))


def scripted(service: ScriptedService, *, chunk_ms: float = 500) -> StreamingSession:
    return StreamingSession(service, transcribe_options(), LiveOptions(vad=LoudIsSpeech(), chunk_ms=chunk_ms))  # type: ignore[arg-type]


def test_a_final_is_decoded_before_silence_has_closed_its_segment(model: Model) -> None:
    service = ScriptedService(model, lambda asked: "some words.")
    session = scripted(service)
    for part in (speech(2.0), *[BLOCK] * 6):
        assert finals(session.push(part)) == []
    (ahead,) = (asked for asked in service.submitted if not asked.is_partial)
    assert (ahead.duration, ahead.answer_prefix) == (pytest.approx(2.2), "")
    (final,) = finals(session.push(BLOCK))
    assert (final.start, final.end, final.text) == (0.0, pytest.approx(2.2), "some words.")
    assert [asked for asked in service.submitted if not asked.is_partial] == [ahead]


def test_who_goes_on_speaking_has_the_final_that_was_begun_dropped(model: Model) -> None:
    service = ScriptedService(model, lambda asked: "words" if asked.is_partial or len(service.submitted) > 2 else None)
    session = scripted(service, chunk_ms=60_000)
    hear_on = [event for part in (speech(2.0), *[BLOCK] * 5) for event in session.push(part)]
    (begun,) = service.submitted
    assert hear_on == [] and not begun.future.cancelled()
    assert session.push(speech(1.0)) == [] and begun.future.cancelled()
    service.answer = lambda asked: "all words"
    (final,) = finals(session.push(speech(0.0, 2.0)))
    assert (final.text, final.end) == ("all words", pytest.approx(3.7))


@pytest.mark.parametrize("says_it_late", [False, True])
def test_a_service_too_busy_for_a_final_ahead_of_time_is_asked_again(model: Model, says_it_late: bool) -> None:
    def answer(asked: Submitted) -> str | None:
        if says_it_late and asked is service.submitted[0]:
            asked.future.set_exception(QueueFullError("full"))
            return None
        return "words"

    service = ScriptedService(model, answer, is_full=not says_it_late)
    session = scripted(service, chunk_ms=60_000)
    for part in (speech(2.0), *[BLOCK] * 6):
        assert session.push(part) == []
    assert len(service.submitted) == says_it_late
    service.is_full = False
    assert [final.text for final in finals(session.push(BLOCK))] == ["words"]
