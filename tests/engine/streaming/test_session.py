"""Live sessions on real vLLM: finals are offline's, whatever the pieces and however many sessions."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.engine.streaming.listening import finals, hear, require_nothing_retracted
from tests.pipeline import Clip
from twostage_asr.engine import (
    AsyncStreamingSession,
    AutoModelVLLM,
    LiveOptions,
    Partial,
    StreamingSession,
    TranscriptionService,
    transcribe_options,
)
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.streaming import Event
from twostage_asr.engine.vad import STREAMING_SCHEDULE, SegmentRules, load_vad

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
def talk(clips: list[Clip]) -> Any:
    """Eight clips with pauses between them."""
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    plain = [clip["source"] for clip in clips if not clip["hotwords"] and clip["text"]][:8]
    return np.concatenate([part for source in plain for part in (load(expand_inputs(source)[0]), pause)])


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
