"""Live audio -> text that never takes back what it has confirmed.

    session = StreamingSession(service, transcribe_options(language="zh"), live)
    for pcm in microphone:                      # pieces of any size
        for event in session.push(pcm):         # Partial: confirmed + tail; Final: the transcript of a segment
            ...
    session.finish()                            # the rest

Voice activity detection cuts the stream into segments (vad/). While one is open, it is decoded again after every
chunk_ms of new audio: a Partial. When it closes, it is decoded once more, alone and whole: its Final is what offline
transcription of the same audio gives. Silence costs nothing, and nothing older than the open segment is kept or encoded
again, so that an hour costs sixty times a minute; a segment is at most SegmentRules.max_segment_s long.

What is confirmed: text that two partials in a row agree on, without the last rollback_chars characters, cut where a
token of the LLM ends. Later partials get it as the beginning of their answer, so that they only decode what is new. A
final is decoded without it and nearly always begins with it; if one does not, it is decoded again with it.

A segment of max_segment_s without a pause is cut in two, at a place that lies before the end of what has been heard. Of
what was confirmed, as many words as the first half has stay there, and the rest is confirmed for the second half.

The logic waits for nothing: it is a generator that yields futures. StreamingSession waits for them in the caller's
thread, AsyncStreamingSession on the event loop; any number of either share a TranscriptionService.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, QueueFullError, UnsupportedAudioError
from .service import TranscriptionService
from .text import LLMTokenizer
from .transcriber import TranscribeOptions
from .transcript import Segment, Transcript, TranscriptWarning, Word
from .vad import STREAMING_SCHEDULE, SegmentRules, SpeechSegmenter, SpeechSpan, VoiceActivityModel
from .waveform import SAMPLE_RATE, Waveform
from .words import split_words

PCM: TypeAlias = "bytes | npt.NDArray[np.int16] | npt.NDArray[np.float32]"
PCM16_FULL_SCALE = 32768.0


@dataclass(frozen=True, slots=True)
class Partial:
    """What is heard so far of the open segment. Times are seconds from the start of the stream."""

    segment: int  # its number, from 0
    start: float
    end: float  # of the audio that was heard
    confirmed: str  # will not change: later texts of this segment begin with it
    tail: str  # may still change

    @property
    def text(self) -> str:
        return self.confirmed + self.tail


@dataclass(frozen=True, slots=True)
class Final:
    """A segment that is over; its number may be one for which there was no Partial."""

    segment: int
    start: float
    end: float
    transcript: Transcript  # its times are those of the stream; empty where nothing was said after all

    @property
    def text(self) -> str:
        return self.transcript.text


Event: TypeAlias = "Partial | Final"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """How live audio is heard, the same for all sessions."""

    vad: VoiceActivityModel
    tokenizer: LLMTokenizer
    chunk_ms: float = 720.0  # of new audio between two partials of a segment
    rollback_chars: int = 8  # at the end of a partial, that are never confirmed
    rules: SegmentRules = field(
        default_factory=lambda: SegmentRules(max_segment_s=30.0, silence_schedule=STREAMING_SCHEDULE)
    )

    def __post_init__(self) -> None:
        if not self.chunk_ms > 0:
            raise ConfigError(f"chunk_ms must be positive, got {self.chunk_ms}")
        if self.rollback_chars < 0:
            raise ConfigError(f"rollback_chars must be 0 or more, got {self.rollback_chars}")


_Steps: TypeAlias = Generator[Future[Transcript], Transcript, list[Event]]


class StreamingSession:
    """One stream of audio. One caller at a time; a push returns when what it made due has been decoded."""

    def __init__(
        self, service: TranscriptionService, options: TranscribeOptions, live: LiveOptions, *, key: str = "live"
    ) -> None:
        """Raises ConfigError for a language that the model does not know, at the first push at the latest."""
        self._stream = _Stream(service, options, live, key)

    def push(self, pcm: PCM) -> list[Event]:
        """Hear more audio: 16 kHz mono; int16, little-endian bytes of it, or float32 in [-1, 1], any number of samples.

        Returns:
            The finals of the segments that it ended, and at most one partial, of the segment that is open.

        Raises:
            UnsupportedAudioError: not such samples; nothing has been heard of them. QueueFullError: the service has
            too much to do for a final; the audio has been heard, and a later call gives what is missing. DecodeError,
            ServiceClosedError: the service has ended.
        """
        return _wait(self._stream.push(samples_of(pcm)))

    def finish(self) -> list[Event]:
        """Hear that the stream has ended: the finals of what was still open. Nothing may be pushed after it.

        Raises QueueFullError when the service has too much to do; finish() may be called again.
        """
        return _wait(self._stream.finish())


class AsyncStreamingSession:
    """A StreamingSession for event loops: nothing here blocks the loop, and other sessions go on meanwhile.

    While a push is awaited, more audio may gather; pushed together it makes one partial, so that a slow machine shows
    fewer partials and falls no further behind. Cancelling a push drops its decoding; the session cannot be used then.
    """

    def __init__(
        self, service: TranscriptionService, options: TranscribeOptions, live: LiveOptions, *, key: str = "live"
    ) -> None:
        self._stream = _Stream(service, options, live, key)

    async def push(self, pcm: PCM) -> list[Event]:
        """See StreamingSession.push."""
        return await _wait_on_loop(self._stream.push(samples_of(pcm)))

    async def finish(self) -> list[Event]:
        """See StreamingSession.finish."""
        return await _wait_on_loop(self._stream.finish())


@dataclass(slots=True, eq=False)
class _Closed:
    """A segment that is over, and its final on the way."""

    span: SpeechSpan
    audio: Waveform
    future: Future[Transcript] | None = None  # None: the service has not taken it yet


class _Stream:
    """What a session has heard and said. `push` and `finish` yield futures and are sent their results."""

    def __init__(self, service: TranscriptionService, options: TranscribeOptions, live: LiveOptions, key: str) -> None:
        self._service = service
        self._options = options
        self._live = live
        self._key = key
        self._segmenter = SpeechSegmenter(live.vad.new_stream(), live.rules)
        self._recent = _RecentAudio()
        self._closed: deque[_Closed] = deque()
        self._segment = 0  # number of the oldest segment without a final
        self._confirmed = ""  # of that segment
        self._hypothesis = ""  # its last partial, whole
        self._heard_s = 0.0  # how much of the stream that partial had heard

    def push(self, samples: Waveform) -> _Steps:
        self._recent.push(samples)
        self._close(self._segmenter.push(samples))
        events = yield from self._finals()
        return events + (yield from self._partial())

    def finish(self) -> _Steps:
        self._close(self._segmenter.finish())
        return (yield from self._finals())

    def _close(self, spans: Iterable[SpeechSpan]) -> None:
        self._closed += (_Closed(span, self._recent.cut(span)) for span in spans)
        self._recent.forget(self._segmenter.settled_s)

    def _finals(self) -> _Steps:
        for closed in self._closed:
            if closed.future is None:
                closed.future = self._submit(closed.audio, self._options)
        events: list[Event] = []
        while self._closed:
            closed = self._closed[0]
            assert closed.future is not None
            transcript = yield closed.future
            self._closed.popleft()
            transcript, rest = yield from self._reconciled(closed, transcript)
            start, end = closed.span.start, closed.span.end
            events.append(Final(self._segment, start, end, _shifted(transcript, start)))
            self._segment += 1
            self._confirmed = self._hypothesis = rest
        return events

    def _reconciled(
        self, closed: _Closed, transcript: Transcript
    ) -> Generator[Future[Transcript], Transcript, tuple[Transcript, str]]:
        """A final that begins with what was confirmed, and what of that belongs to the next segment."""
        confirmed = self._confirmed
        if transcript.text.startswith(confirmed):
            return transcript, ""
        if self._next_start_s() + self._live.rules.padding_s < self._heard_s:  # it was cut where somebody speaks
            kept, rest = _split_after(confirmed, len(split_words(transcript.text)))
            if rest:
                return _with_text(transcript, kept), rest
        with contextlib.suppress(QueueFullError):
            transcript = yield self._submit(closed.audio, self._options, confirmed)
        if transcript.text.startswith(confirmed):
            return transcript, ""
        return _with_text(transcript, confirmed), ""

    def _next_start_s(self) -> float:
        """Of the segment after the one that waits for its final; infinite if none has begun."""
        following = self._closed[0].span if self._closed else self._segmenter.open
        return math.inf if following is None else following.start

    def _partial(self) -> _Steps:
        """Of the open segment, if enough is new in it."""
        span = self._segmenter.open
        if span is None or span.end - max(self._heard_s, span.start) < self._live.chunk_ms / 1000:
            return []
        try:
            future = self._submit(self._recent.cut(span), replace(self._options, timestamps=False), self._confirmed)
        except QueueFullError:  # the next one will do
            return []
        transcript = yield future
        self._heard_s = span.end
        text, before = transcript.text, self._hypothesis
        if not text.startswith(self._confirmed) or not (text or before):
            return []
        self._confirmed = self._confirmable(text)
        self._hypothesis = text
        confirmed = self._confirmed
        return [Partial(self._segment, span.start, span.end, confirmed, text.removeprefix(confirmed))]

    def _confirmable(self, text: str) -> str:
        """What can be confirmed of a hypothesis; begins with what has been."""
        agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._hypothesis, text, strict=False)))
        longest = min(agreed, len(text) - self._live.rollback_chars)
        return max(self._confirmed, token_prefix(self._live.tokenizer, text, longest), key=len)

    def _submit(self, audio: Waveform, options: TranscribeOptions, prefix: str = "") -> Future[Transcript]:
        return self._service.submit(audio, options, key=self._key, answer_prefix=prefix)


class _RecentAudio:
    """The end of a stream of samples."""

    def __init__(self) -> None:
        self._pieces: deque[Waveform] = deque()
        self._first = 0  # place in the stream of the first sample that is kept

    def push(self, samples: Waveform) -> None:
        self._pieces.append(samples)

    def cut(self, span: SpeechSpan) -> Waveform:
        start, end = round(span.start * SAMPLE_RATE), round(span.end * SAMPLE_RATE)
        assert start >= self._first
        return np.concatenate(self._pieces)[start - self._first : end - self._first]

    def forget(self, before_s: float) -> None:
        """Drop pieces that lie before this time."""
        while self._pieces and self._first + len(self._pieces[0]) <= before_s * SAMPLE_RATE:
            self._first += len(self._pieces.popleft())


def samples_of(pcm: PCM) -> Waveform:
    """What `push` takes -> (N,) float32. Raises UnsupportedAudioError for anything else."""
    if isinstance(pcm, bytes):
        if len(pcm) % 2:
            raise UnsupportedAudioError(f"16-bit samples take an even number of bytes, got {len(pcm)}")
        pcm = np.frombuffer(pcm, "<i2")
    if pcm.ndim != 1 or pcm.dtype not in (np.int16, np.float32):
        raise UnsupportedAudioError(
            f"live audio is bytes, or (N,) int16 or float32; got an array of {pcm.dtype}, shape {pcm.shape}"
        )
    if pcm.dtype == np.int16:
        return pcm.astype(np.float32) / np.float32(PCM16_FULL_SCALE)
    if not np.isfinite(pcm).all():
        raise UnsupportedAudioError(f"{np.count_nonzero(~np.isfinite(pcm))} of {len(pcm)} samples are NaN or infinite")
    return pcm.astype(np.float32, copy=False)


def token_prefix(tokenizer: LLMTokenizer, text: str, max_chars: int) -> str:
    """The longest beginning of `text`, of at most `max_chars` characters, that ends where one of its tokens ends.

    Its own tokens are the first of the text's, so that an LLM can go on from it as it would have written the text.
    """
    token_ids = tokenizer.encode(text)
    for count in range(len(token_ids), 0, -1):
        prefix = tokenizer.decode(token_ids[:count])
        is_beginning = len(prefix) <= max_chars and text.startswith(prefix) and not prefix[-1:].isspace()
        if is_beginning and tokenizer.encode(prefix) == token_ids[:count]:
            return prefix
    return ""


def _split_after(text: str, num_words: int) -> tuple[str, str]:
    """The text up to its word of this number, and the rest, which is empty if it has no more words."""
    words = split_words(text)
    if num_words >= len(words):
        return text, ""
    place = words[num_words].start
    return text[:place].rstrip(), text[place:]


def _with_text(transcript: Transcript, text: str) -> Transcript:
    """The transcript with a text that was confirmed in place of its own, and its word times if they fit that."""
    words, warnings = transcript.words, transcript.warnings
    if words is not None and [word.text for word in words] != [word.text for word in split_words(text)]:
        words = None
        warnings += (TranscriptWarning("no_word_times", "the text was confirmed before all of it had been heard"),)
    start, end = (words[0].start, words[-1].end) if words else (0.0, transcript.duration)
    segments = (Segment(start, end, text, words, transcript.confidence),) if text else ()
    return replace(transcript, text=text, words=words, segments=segments, warnings=warnings)


def _shifted(transcript: Transcript, seconds: float) -> Transcript:
    """With times that count from the start of the stream."""
    segments = tuple(
        replace(s, start=round(s.start + seconds, 3), end=round(s.end + seconds, 3), words=_later(s.words, seconds))
        for s in transcript.segments
    )
    return replace(transcript, words=_later(transcript.words, seconds), segments=segments)


def _later(words: tuple[Word, ...] | None, seconds: float) -> tuple[Word, ...] | None:
    if words is None:
        return None
    return tuple(replace(w, start=round(w.start + seconds, 3), end=round(w.end + seconds, 3)) for w in words)


def _resume(steps: _Steps, transcript: Transcript | None = None) -> Future[Transcript] | list[Event]:
    """Go on to the next future, or to the end."""
    try:
        return steps.send(transcript)  # type: ignore[arg-type]  # None starts it
    except StopIteration as end:
        events: list[Event] = end.value
        return events


def _wait(steps: _Steps) -> list[Event]:
    outcome = _resume(steps)
    while isinstance(outcome, Future):
        outcome = _resume(steps, outcome.result())
    return outcome


async def _wait_on_loop(steps: _Steps) -> list[Event]:
    outcome = await asyncio.to_thread(_resume, steps)  # voice activity detection, where much was pushed
    while isinstance(outcome, Future):
        transcript: Transcript = await asyncio.wrap_future(outcome)
        outcome = _resume(steps, transcript)
    return outcome
