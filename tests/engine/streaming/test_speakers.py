"""Speakers of live audio: a voice keeps its name, finals are split where it changes, and texts stay what they are."""

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.streaming.listening import finals, hear
from tests.engine.streaming.scripted import LoudIsSpeech
from tests.engine.streaming.voiced import VoicedService, talk
from tests.fake_voices import BROKEN, FakeVoices
from twostage_asr.engine import AsyncStreamingSession, ConfigError, Final, LiveOptions, StreamingSession, Transcript
from twostage_asr.engine.run_options import transcribe_options
from twostage_asr.engine.speakers.clustering import SpeakerCount
from twostage_asr.engine.speakers.queue import SpeakerQueue
from twostage_asr.engine.streaming import LiveSpeakers, relabelled
from twostage_asr.engine.transcript import Segment

LIVE = LiveOptions(vad=LoudIsSpeech())
OPTIONS = transcribe_options()
PAUSE = (0, 2.0)


def session_of(service: Any, speakers: LiveSpeakers | None = None) -> StreamingSession:
    return StreamingSession(service, OPTIONS, LIVE, speakers=speakers or LiveSpeakers(service))


def said(*parts: tuple[int, float], service: Any = None) -> list[Final]:
    return finals(hear(session_of(service or VoicedService()), talk(*parts), 8000))


def speakers_of(final: Final) -> list[str | None]:
    return [segment.speaker for segment in final.transcript.segments]


def without_speakers(transcript: Transcript) -> tuple[Any, ...]:
    """All that is not about speakers. The segments are those of the text, which speakers split."""
    words = [(word.text, word.start, word.end, word.confidence) for word in transcript.words or ()]
    segments = " ".join(segment.text for segment in transcript.segments)
    return (transcript.key, transcript.text, words, segments, transcript.duration, transcript.warnings)


def test_a_returning_speaker_keeps_the_name() -> None:
    heard = said((3, 3.0), PAUSE, (5, 3.0), PAUSE, (3, 3.0))
    assert [speakers_of(final) for final in heard] == [["SPK0"], ["SPK1"], ["SPK0"]]
    assert {word.speaker for word in heard[1].transcript.words or ()} == {"SPK1"}


def test_a_final_is_split_where_the_speaker_changes() -> None:
    (final,) = said((3, 4.0), (5, 4.0), PAUSE)
    first, second = final.transcript.segments
    assert (first.speaker, second.speaker) == ("SPK0", "SPK1")
    assert first.end == pytest.approx(4.0, abs=0.6) and f"{first.text} {second.text}" == final.text


def test_turns_are_on_the_time_of_the_stream() -> None:
    _, late = said((3, 3.0), PAUSE, (5, 3.0))
    (turn,) = late.transcript.turns or ()
    assert (turn.start, turn.end) == (pytest.approx(late.start, abs=0.01), pytest.approx(late.end, abs=0.01))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([1.0, 2.5, 4.0]), st.booleans()), max_size=6))
def test_speakers_never_change_a_text(parts: list[tuple[int, float, bool]]) -> None:
    audio = talk((0, 0.5), *(part for voice, s, stops in parts for part in ((voice, s), (0, 2.0 if stops else 0.0))))
    service: Any = VoicedService()
    session = session_of(service)
    named = finals(hear(session, audio, 8000))
    plain = finals(hear(StreamingSession(service, OPTIONS, LIVE), audio, 8000))
    names = session.relabel()
    for final, unnamed in zip(named, plain, strict=True):
        assert without_speakers(final.transcript) == without_speakers(unnamed.transcript)
        assert without_speakers(relabelled(final.transcript, names)) == without_speakers(unnamed.transcript)
        assert final.transcript.turns


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["SPK0", "SPK1"]), st.sampled_from(["SPK0", "Ana"])))
def test_relabelling_changes_names_alone(names: dict[str, str]) -> None:
    (final,) = said((3, 3.0), (5, 3.0))
    before, after = final.transcript, relabelled(final.transcript, names)

    def all_names(transcript: Transcript) -> list[Any]:
        parts: list[Any] = [*transcript.segments, *(transcript.words or ()), *(transcript.turns or ())]
        parts += [word for segment in transcript.segments for word in segment.words or ()]
        return [part.speaker for part in parts]

    assert all_names(after) == [names.get(name, name) for name in all_names(before)]
    assert relabelled(after, {"Ana": "SPK0"}).text == before.text
    assert without_speakers(after) == without_speakers(before)


def test_names_of_one_voice_become_the_first_of_them() -> None:
    class Unsure(VoicedService):
        """A voice that sounds like another one at first."""

        def embed(self, waveform: Any, windows: Any) -> Any:
            future: Future[Any] = Future()
            angle = float(waveform.max(initial=0.0))  # samples(314) turns by 90 degrees
            row = np.float32([np.cos(5 * angle), np.sin(5 * angle)])
            future.set_result(np.tile(row, (len(windows), 1)))
            return future

    service: Any = Unsure()
    session = session_of(service)
    parts = [part for turn in (1, 240, 120, 120, 120, 120) for part in ((turn, 4.0), PAUSE)]
    heard = finals(hear(session, talk(*parts), 8000))
    assert {name for final in heard for name in speakers_of(final)} == {"SPK0", "SPK1"}
    assert session.relabel() == {"SPK0": "SPK0", "SPK1": "SPK0"}


def test_what_fails_costs_a_final_its_speakers_alone() -> None:
    first, failed, last = said((3, 3.0), PAUSE, (BROKEN, 3.0), PAUSE, (3, 3.0))
    assert speakers_of(first) == speakers_of(last) == ["SPK0"]
    assert speakers_of(failed) == [None] and failed.text == first.text
    (warning,) = failed.transcript.warnings
    assert warning.code == "no_speakers" and "broken" in warning.message


def test_what_has_no_text_is_nobodys() -> None:
    class Silent(VoicedService):
        def submit(self, *arguments: Any, **options: Any) -> Future[Transcript]:
            future: Future[Transcript] = Future()
            future.set_result(Transcript("live", "", words=(), duration=3.0))
            return future

    service: Any = Silent()
    speakers = LiveSpeakers(service)
    hear(session_of(service, speakers), talk((3, 3.0), PAUSE), 8000)
    assert speakers.relabel() == {}


def test_a_known_number_of_speakers_is_kept_to() -> None:
    service: Any = VoicedService()
    session = session_of(service, LiveSpeakers(service, count=SpeakerCount(exact=2)))
    heard = finals(hear(session, talk(*(part for v in (3, 5, 7, 9) for part in ((v, 3.0), PAUSE))), 8000))
    assert {name for final in heard for name in speakers_of(final)} == {"SPK0", "SPK1"}


def test_the_names_of_an_earlier_stream_are_kept() -> None:
    service: Any = VoicedService()
    speakers = LiveSpeakers(service)
    for expected, voice in (("SPK0", 3), ("SPK1", 5), ("SPK0", 3)):
        (final,) = finals(hear(session_of(service, speakers), talk((voice, 3.0), PAUSE), 8000))
        assert speakers_of(final) == [expected]


def test_sessions_on_an_event_loop_have_them_too() -> None:
    async def one() -> tuple[list[Final], dict[str, str]]:
        service: Any = VoicedService()
        session = AsyncStreamingSession(service, OPTIONS, LIVE, speakers=LiveSpeakers(service))
        heard = [*await session.push(talk((3, 3.0), PAUSE, (5, 3.0), PAUSE, (BROKEN, 3.0))), *await session.finish()]
        return finals(heard), await session.relabel()

    heard, names = asyncio.run(one())
    assert [speakers_of(final) for final in heard] == [["SPK0"], ["SPK1"], [None]]
    assert names == {"SPK0": "SPK0", "SPK1": "SPK1"}


def test_options_that_ask_for_speakers_are_not_overheard() -> None:
    service: Any = VoicedService()
    with pytest.raises(ConfigError, match="speakers=LiveSpeakers"):
        StreamingSession(service, transcribe_options(speakers=True), LIVE)


def test_a_transcript_without_speakers_stays() -> None:
    plain = Transcript("a", "b", segments=(Segment(0.0, 1.0, "b", None, None),))
    assert relabelled(plain, {"SPK0": "SPK1"}) is plain


def test_the_same_pushes_give_the_same_texts_while_the_model_is_loading() -> None:
    """Partials do not wait for it, and the final waits in the push that ends its segment."""

    class Slow(FakeVoices):
        loaded = threading.Event()

        def get(self) -> FakeVoices:
            assert self.loaded.wait(60)
            return self

    class Loading(VoicedService):
        def __init__(self, voices: FakeVoices) -> None:
            super().__init__()
            self.queue = SpeakerQueue(voices, on_gpu=False)

        def embed(self, waveform: Any, windows: Any) -> Any:
            return self.queue.embed(waveform, windows)

    def pushes(voices: FakeVoices, loaded_by: int) -> list[Any]:
        service: Any = Loading(voices)
        session, audio, told = session_of(service), talk((3, 4.0), PAUSE, (5, 3.0), PAUSE), []
        for number, start in enumerate(range(0, len(audio), 8000)):
            if number == loaded_by:
                assert not voices.num_warm_ups and any(told)
                Slow.loaded.set()
            told.append(session.push(audio[start : start + 8000]))
        service.queue.close()
        assert voices.num_warm_ups == 1
        return [[(type(event), event.text, event.start, event.end) for event in events] for events in told]

    at_once = pushes(FakeVoices(), -1)
    first_final = next(number for number, events in enumerate(at_once) if events and events[0][0] is Final)
    assert pushes(Slow(), first_final) == at_once


def test_a_session_has_the_model_loaded_before_its_first_segment_ends() -> None:
    asked: list[int] = []

    class Asked(VoicedService):
        def embed(self, waveform: Any, windows: Any) -> Any:
            asked.append(len(windows))
            return super().embed(waveform, windows)

    service: Any = Asked()
    session_of(service)
    assert asked == [0]
