"""Live sessions: what is confirmed stays, finals are those of offline transcription, and hours cost as minutes do."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.scripted_live import LoudIsSpeech, ScriptedService, Submitted, speech
from tests.pipeline import Clip
from twostage_asr.engine import (
    AsyncStreamingSession,
    AutoModelVLLM,
    Final,
    LiveOptions,
    Partial,
    QueueFullError,
    StreamingSession,
    Transcript,
    TranscriptionService,
    UnsupportedAudioError,
)
from twostage_asr.engine.auto import transcribe_options
from twostage_asr.engine.inputs import expand_inputs, load
from twostage_asr.engine.streaming import Event, samples_of, token_prefix
from twostage_asr.engine.streaming_sdk import TextSoFar
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.vad import STREAMING_SCHEDULE, SegmentRules, load_vad
from twostage_asr.engine.waveform import SAMPLE_RATE

PAUSE_S = 2.3  # ends a segment that is younger than 5 s
OPTIONS = transcribe_options()


@pytest.fixture(scope="module")
def service(vllm_model: AutoModelVLLM) -> Iterator[TranscriptionService]:
    service = TranscriptionService(vllm_model.transcriber)
    yield service
    service.close()


@pytest.fixture(scope="module")
def live() -> LiveOptions:
    return LiveOptions(vad=load_vad())


@pytest.fixture(scope="module")
def model(vllm_model: AutoModelVLLM) -> Transcriber:
    return vllm_model.transcriber


@pytest.fixture(scope="module")
def talk(clips: list[Clip]) -> Any:
    """Eight clips with pauses between them."""
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    plain = [clip["source"] for clip in clips if not clip["hotwords"] and clip["text"]][:8]
    return np.concatenate([part for source in plain for part in (load(expand_inputs(source)[0]), pause)])


def hear(session: StreamingSession, pcm: Any, chunk: int) -> list[Event]:
    events = [event for start in range(0, len(pcm), chunk) for event in session.push(pcm[start : start + chunk])]
    return events + session.finish()


def finals(events: list[Event]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def require_nothing_retracted(events: list[Event]) -> None:
    """By segment, and in the one text of them all; where a segment was cut, its rest is confirmed for the next."""
    so_far, fixed, segment = TextSoFar(), "", 0
    for event, following in zip(events, [*events[1:], None], strict=True):
        assert event.segment == segment
        segment += isinstance(event, Final)
        so_far.add([event])
        if isinstance(event, Final) and isinstance(following, Partial):
            continue
        assert squeezed(so_far.text).startswith(fixed)
        fixed = squeezed(so_far.fixed_text)
        assert squeezed(so_far.text).startswith(fixed)


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.fixture(scope="module")
def heard(service: TranscriptionService, live: LiveOptions, talk: Any) -> list[Event]:
    """The talk in pieces of 100 ms."""
    return hear(StreamingSession(service, OPTIONS, live), talk, 1600)


def test_a_final_is_what_offline_transcription_of_its_segment_gives(
    service: TranscriptionService, heard: list[Event], talk: Any
) -> None:
    assert len(finals(heard)) == 8
    for final in finals(heard):
        segment = talk[round(final.start * SAMPLE_RATE) : round(final.end * SAMPLE_RATE)]
        offline = service.submit(segment, OPTIONS).result()
        assert final.text == offline.text
        assert final.transcript.words is not None and offline.words is not None
        for live_word, word in zip(final.transcript.words, offline.words, strict=True):
            assert (live_word.text, live_word.confidence) == (word.text, word.confidence)
            shifted = (word.start + final.start, word.end + final.start)
            assert (live_word.start, live_word.end) == pytest.approx(shifted, abs=0.001)
        assert final.transcript.segments[0].start == final.transcript.words[0].start


def test_partials_come_while_somebody_speaks_and_confirm_most_of_it(heard: list[Event]) -> None:
    require_nothing_retracted(heard)
    partials = [event for event in heard if isinstance(event, Partial)]
    assert len(partials) >= 3 * len(finals(heard))
    last = {partial.segment: partial.confirmed for partial in partials}
    assert sum(map(len, last.values())) > sum(len(final.text) for final in finals(heard)) / 2


@pytest.mark.parametrize("chunk", [4_000, 11_520, 10**9])
def test_the_size_of_pieces_changes_no_final(
    service: TranscriptionService, live: LiveOptions, talk: Any, heard: list[Event], chunk: int
) -> None:
    found = finals(hear(StreamingSession(service, OPTIONS, live), talk, chunk))
    for final, expected in zip(found, finals(heard), strict=True):
        assert (final.start, final.end, final.text) == (expected.start, expected.end, expected.text)
        words, expected_words = final.transcript.words or (), expected.transcript.words or ()
        assert [word.text for word in words] == [word.text for word in expected_words]
        # What is encoded together makes up a batch, so that sums may be ordered in another way.
        assert [word.start for word in words] == pytest.approx([word.start for word in expected_words], abs=2e-3)


def test_many_sessions_at_once_hear_what_each_hears_alone(
    service: TranscriptionService, live: LiveOptions, talk: Any, heard: list[Event]
) -> None:
    async def listen(delay_blocks: int) -> list[Event]:
        session = AsyncStreamingSession(service, OPTIONS, live)
        events = []
        pcm = np.concatenate([np.zeros(16_000 * delay_blocks, np.float32), talk])
        for start in range(0, len(pcm), 16_000):
            events += await session.push(pcm[start : start + 16_000])
        return events + await session.finish()

    async def listen_all() -> list[list[Event]]:
        return await asyncio.gather(*(listen(i) for i in range(4)))

    for events in asyncio.run(listen_all()):
        assert [final.text for final in finals(events)] == [final.text for final in finals(heard)]
        require_nothing_retracted(events)


def test_speech_without_pauses_is_cut_and_nothing_is_retracted(
    service: TranscriptionService, clips: list[Clip]
) -> None:
    plain = [clip for clip in clips if clip["language"] == "英文" and not clip["hotwords"]][:4]
    pcm = np.concatenate([load(expand_inputs(clip["source"])[0]) for clip in plain])
    rules = SegmentRules(max_segment_s=3.0, silence_schedule=STREAMING_SCHEDULE)
    live = LiveOptions(vad=load_vad(), rollback_chars=0, rules=rules)
    events = hear(StreamingSession(service, OPTIONS, live), pcm, 1600)
    assert len(finals(events)) > 2
    require_nothing_retracted(events)


# --- With a service that says what it is told


def scripted(service: ScriptedService, **options: Any) -> StreamingSession:
    live = LiveOptions(vad=LoudIsSpeech(), chunk_ms=500, **options)
    return StreamingSession(service, OPTIONS, live)  # type: ignore[arg-type]


TEXTS = st.sampled_from(
    ["", "one", "one two", "one two three", "One, two. Three four", "你好 one", "你好世界", "zero two three"]
)


@given(st.lists(TEXTS, min_size=1), st.booleans(), st.integers(0, 4))
def test_no_answers_can_make_a_session_retract(
    model: Transcriber, answers: list[str], is_forced: bool, rollback_chars: int
) -> None:
    def answer(asked: Submitted) -> str:
        text = answers[len(service.submitted) % len(answers)]
        return asked.answer_prefix + text if is_forced or len(text) % 2 else text

    service = ScriptedService(model, answer)
    session = scripted(service, rollback_chars=rollback_chars, rules=SegmentRules(max_segment_s=2.0))
    require_nothing_retracted(hear(session, speech(5.0, 2.5, 1.5, 2.5), 1600))


def test_a_partial_goes_on_from_what_is_confirmed(model: Transcriber) -> None:
    service = ScriptedService(model, lambda asked: "one two three four five"[: 4 + 5 * len(service.submitted)])
    events = hear(scripted(service, rollback_chars=4), speech(3.0, 2.5), 1600)
    confirmed = [""] + [event.confirmed for event in events if isinstance(event, Partial)]
    assert [asked.answer_prefix for asked in service.submitted if asked.is_partial] == confirmed[:-1]
    assert any(confirmed)


def test_words_beyond_a_cut_are_kept_for_the_next_segment(model: Transcriber) -> None:
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


def test_an_hour_costs_sixty_times_a_minute(model: Transcriber) -> None:
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


def test_silence_costs_nothing(model: Transcriber) -> None:
    service = ScriptedService(model, lambda asked: "words")
    session = scripted(service)
    assert hear(session, speech(0.0, 60.0), 1600) == []
    assert service.submitted == [] and len(session._stream._recent._pieces) < 10


def test_a_full_service_costs_partials_but_no_final(model: Transcriber) -> None:
    service = ScriptedService(model, lambda asked: "words", is_full=True)
    session = scripted(service)
    assert session.push(speech(2.0)) == []
    with pytest.raises(QueueFullError):
        session.push(speech(0.0, 2.5))
    with pytest.raises(QueueFullError):
        session.finish()
    service.is_full = False
    assert [event.text for event in session.finish()] == ["words"]


def test_the_loop_is_free_while_a_session_waits(model: Transcriber) -> None:
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


def test_a_cancelled_push_drops_its_decoding(model: Transcriber) -> None:
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


def test_bytes_integers_and_floats_are_the_same_samples() -> None:
    integers = np.array([0, 1, -32768, 32767], np.int16)
    for pcm in (integers, integers.tobytes(), (integers / 32768).astype(np.float32)):
        assert samples_of(pcm).tolist() == [0.0, 1 / 32768, -1.0, 32767 / 32768]


@pytest.mark.parametrize(
    ("pcm", "message"),
    [
        (b"123", "even number of bytes, got 3"),
        (np.zeros(3), "got an array of float64"),
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
def test_a_token_prefix_is_a_beginning_in_whole_tokens(model: Transcriber, text: str, limit: int) -> None:
    prefix = token_prefix(model.tokenizer, text, limit)
    assert text.startswith(prefix)
    assert len(prefix) <= max(0, limit)
    token_ids = model.tokenizer.encode(prefix)
    assert model.tokenizer.encode(text)[: len(token_ids)] == token_ids
