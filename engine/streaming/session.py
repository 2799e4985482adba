"""Live audio -> text, part of which is confirmed early and never changes after that.

    session = StreamingSession(service, transcribe_options(language="zh"), live)
    for pcm in microphone:                      # pieces of any size
        for event in session.push(pcm):         # Partial: confirmed + tail; Final: the transcript of a segment
            ...
    session.finish()                            # the rest

Segments: voice activity detection cuts the stream into segments of at most SegmentRules.max_segment_s (vad/). An open
segment is decoded again after each chunk_ms of new audio, which gives a Partial. A closed segment is decoded once more
as a whole (closed.py). Its Final is what offline transcription of the same audio gives. Silence is not decoded, and
audio before the open segment is dropped, so the cost grows linearly with the length of the stream.

Sentences: a segment whose text stops within a sentence waits SegmentRules.mid_sentence_ms longer for more speech. To
know the text in time, it is also decoded when speech has paused for _PAUSE_S. Unless the last final in such a script,
or a later partial, has ended with a mark that ends sentences, the model may be one that writes none in this language.
Nothing is concluded from their absence then, so that such a model makes one segment wait at most. Scripts are told
apart by whether words have spaces between them: a model may write marks in English, but none in Chinese.

Confirmed text: the text that three partials in a row agree on is confirmed, without its last rollback_chars characters,
and cut where a token of the LLM ends. Two partials are not enough, because the second may repeat a mistake that the
final does not make. Later partials get the confirmed text as the beginning of their answer, so that they decode only
what is new. A Final is decoded without it, and nearly always begins with it; if not, it is decoded again with it.

Speech without a pause: a segment is cut in two while somebody speaks, often before the end of the audio that the last
partial covers. The first half keeps as many confirmed words as its own text has. The rest of them are confirmed for the
second half.

Speakers, if somebody asks for them: the voices of a closed segment are embedded while it is decoded (speakers.py).

The logic is a generator that yields futures and never waits itself (steps.py). StreamingSession waits for them in the
caller's thread, AsyncStreamingSession on the event loop. Any number of sessions share a TranscriptionService.
"""

import asyncio
import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from ..audio.waveform import Waveform
from ..checks import check_fields
from ..errors import ConfigError, QueueFullError
from ..families.languages import is_auto
from ..model import ClipService
from ..run_options import TranscribeOptions
from ..transcript import Transcript
from ..vad import LIVE_RULES, SegmentRules, SpeechSegmenter, SpeechSpan, VoiceActivityModel
from ..words.split import split_words
from .audio import PCM, PCMReader, RecentAudio
from .closed import Closed
from .events import Event, Final, Partial
from .speakers import LiveSpeakers
from .steps import Done, Steps, outcome_of, wait, wait_on_loop
from .text import ends_sentence, is_unspaced, on_stream_time, split_after, token_prefix, with_text

logger = logging.getLogger(__name__)

_AHEAD_S = 0.3  # a final takes less, and pauses that last so long after speech mostly close the segment
_PAUSE_S = 0.3  # less than the silence that closes a segment by the time that a partial takes


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """Options that all live sessions share."""

    vad: VoiceActivityModel
    chunk_ms: float = 720.0  # new audio between two partials of a segment
    rollback_chars: int = 8  # characters at the end of a partial that are never confirmed
    rollback_tokens: int = 0  # the same in tokens of the LLM
    agreeing_partials: int = 3  # number of partials in a row that must agree on confirmed text
    unfixed_partials: int = 0  # number of partials of a segment before any of its text is confirmed
    rules: SegmentRules = LIVE_RULES

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.chunk_ms > 0:
            raise ConfigError(f"chunk_ms must be positive, got {self.chunk_ms}")
        if self.agreeing_partials < 1:
            raise ConfigError(f"agreeing_partials must be at least 1, got {self.agreeing_partials}")
        for name in ("rollback_chars", "rollback_tokens", "unfixed_partials"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")


class StreamingSession:
    """One stream of audio, for one caller at a time. A push returns once the events that it makes due are decoded."""

    def __init__(
        self,
        service: ClipService,
        options: TranscribeOptions,
        live: LiveOptions,
        *,
        key: str = "live",
        speakers: LiveSpeakers | None = None,
    ) -> None:
        """`speakers`: name the speakers of the finals; None does not.

        Raises ConfigError for a language that the model does not know, or if `options` ask for speakers in place of
        the argument.
        """
        self._stream = _Stream(service, options, live, key, speakers)

    def push(self, pcm: PCM) -> list[Event]:
        """Take more audio: any number of samples, 16 kHz mono, as int16, little-endian bytes, or float32 in [-1, 1].

        Bytes may end within a 16-bit sample; its rest comes with the next push.

        Returns:
            The finals of the segments that have ended, and at most one partial of the open segment.

        Raises:
            UnsupportedAudioError: these are not such samples. They have not been taken.
            ConfigError: the session is finished, its model is closed, or another thread is pushing.
            QueueFullError: the service is too busy for a final. The audio has been taken, and a later call returns the
                events that are missing.
            DecodeError, ServiceClosedError: the service has ended.
        """
        return wait(self._stream.push(self._stream.reader.samples(pcm)))

    def finish(self) -> list[Event]:
        """End the stream and return the finals of all segments that are left. Nothing may be pushed afterwards.

        Raises QueueFullError if the service is too busy; finish() may then be called again.
        """
        return wait(self._stream.finish())

    def relabel(self) -> dict[str, str]:
        """The names to use in place of those of the speakers so far, after a look at all that was heard.

        Names that turn out to be one speaker become the name that was given first; the others stay. relabelled()
        applies the result to a transcript, whose text does not change. It is empty without `speakers`.
        """
        return self._stream.relabel()


class AsyncStreamingSession:
    """A StreamingSession for event loops, which never blocks the loop.

    While a push is awaited, the caller may gather more audio and push it together. It then gives one partial, so that a
    slow machine shows fewer partials instead of falling behind. Cancelling a push drops its decoding, and the session
    cannot be used any more.
    """

    def __init__(
        self,
        service: ClipService,
        options: TranscribeOptions,
        live: LiveOptions,
        *,
        key: str = "live",
        speakers: LiveSpeakers | None = None,
    ) -> None:
        """See StreamingSession."""
        self._stream = _Stream(service, options, live, key, speakers)

    async def push(self, pcm: PCM) -> list[Event]:
        """See StreamingSession.push."""
        return await wait_on_loop(self._stream.cancel, self._stream.push(self._stream.reader.samples(pcm)))

    async def finish(self) -> list[Event]:
        """See StreamingSession.finish."""
        return await wait_on_loop(self._stream.cancel, self._stream.finish())

    async def relabel(self) -> dict[str, str]:
        """See StreamingSession.relabel."""
        return await asyncio.to_thread(self._stream.relabel)


class _Stream:
    """The state and logic of one session. `push` and `finish` are generators that yield futures and get the results."""

    def __init__(
        self,
        service: ClipService,
        options: TranscribeOptions,
        live: LiveOptions,
        key: str,
        speakers: LiveSpeakers | None,
    ) -> None:
        service.model.lock.require_open()
        service.model.family.prompt_text(options.request)
        if options.speakers is not None:
            raise ConfigError("a live session gets its speakers as an argument: speakers=LiveSpeakers(service)")
        self._service = service
        self._options = options
        self._live = live
        self._key = key
        self._speakers = speakers
        self.reader = PCMReader()
        self._segmenter = SpeechSegmenter(live.vad.new_stream(), live.rules)
        self._recent = RecentAudio()
        self._closed: deque[Closed] = deque()
        self._ahead: Closed | None = None  # the open segment, if its final is decoded ahead of time
        self._finished: list[Event] = []  # of closed segments; they outlive a push that the service is too busy for
        self._asked: list[Future[Any]] = []  # that the service has not finished
        self._segment = 0  # number of the oldest segment without a final; the next four are about this segment
        self._confirmed = ""
        self._hypotheses = deque[str](maxlen=live.agreeing_partials)  # whole texts of its last partials
        self._language: str | None = None  # of its last partial
        self._num_partials = 0
        self._heard_s = 0.0  # end (s) of the audio that the last partial covers
        self._has_marks = {True: False, False: False}  # of unspaced texts, of others: see the top of this file
        self._has_ended = False  # nothing may be pushed any more
        self._caller = threading.Lock()  # held while a push or finish() is under way

    def push(self, samples: Waveform) -> Steps:
        with self._alone():
            self._service.model.lock.require_open()
            if self._has_ended:
                raise ConfigError("this session has ended, by finish() or a cancelled push: open a new one")
            self._recent.push(samples)
            self._close(self._segmenter.push(samples))
            events = (yield from self._finals()) + (yield from self._partial())
            self._look_ahead()
            return events

    def finish(self) -> Steps:
        with self._alone():
            self._has_ended = True
            self._close(self._segmenter.finish())
            events = yield from self._finals()
            return self._with_stray_byte(events)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Raises ConfigError if another caller is at work: the two would mix their audio and lose events."""
        if not self._caller.acquire(blocking=False):
            raise ConfigError("another push of this session is under way; a session is for one caller at a time")
        try:
            yield
        finally:
            self._caller.release()

    def _with_stray_byte(self, events: list[Event]) -> list[Event]:
        """The last events of the stream, with a warning on the last final if the stream ended within a sample."""
        warning = self.reader.finish()
        if warning is None:
            return events
        logger.warning("%s: %s", self._key, warning.message)
        if not events or not isinstance(events[-1], Final):
            return events
        transcript = events[-1].transcript
        told = replace(transcript, warnings=(*transcript.warnings, warning))
        return [*events[:-1], replace(events[-1], transcript=told)]

    def relabel(self) -> dict[str, str]:
        return {} if self._speakers is None else self._speakers.relabel()

    def cancel(self) -> None:
        """Drop what is being decoded. Nothing may be pushed afterwards."""
        self._has_ended = True
        for future in self._asked:
            future.cancel()

    def _close(self, spans: Sequence[SpeechSpan]) -> None:
        ahead = self._ahead
        for span in spans:
            self._closed.append(ahead if ahead and ahead.span == span else Closed(span, self._recent.cut(span)))
        if ahead and (spans or ahead.span.end < self._segmenter.speech_end_s):  # somebody goes on speaking
            if ahead not in self._closed:
                ahead.drop()
            self._ahead = None
        self._recent.forget(self._segmenter.settled_s)

    def _look_ahead(self) -> None:
        """Begin the final of a segment that silence is about to close, unless the service is too busy."""
        span = self._segmenter.closing_in(_AHEAD_S)
        if span is not None and self._ahead is None:
            ahead = Closed(span, self._recent.cut(span))
            with contextlib.suppress(QueueFullError):
                self._ask_for(ahead)
                self._ahead = ahead

    def _ask_for(self, closed: Closed) -> None:
        if not closed.is_asked_for:
            closed.future = self._submit(closed.audio, self._options)
        if closed.voices is None and self._speakers is not None:
            closed.voices = self._note(self._speakers.hear(closed.audio))

    def _finals(self) -> Steps:
        for closed in self._closed:
            self._ask_for(closed)
        while self._closed:
            closed = self._closed[0]
            assert closed.future is not None
            transcript = yield closed.future  # which a later call asks for again if the service is too busy
            self._closed.popleft()
            transcript, rest = yield from self._reconciled(closed, transcript)
            start, end = closed.span.start, closed.span.end
            transcript = on_stream_time(transcript, start)
            if self._speakers is not None and closed.voices is not None:
                voices = yield from outcome_of(closed.voices)
                transcript = self._speakers.named(transcript, start, len(closed.audio), voices)
            self._finished.append(Final(self._segment, start, end, transcript))
            self._segment += 1
            if transcript.text:
                self._has_marks[is_unspaced(transcript.text)] = ends_sentence(transcript.text)
            self._confirmed = rest
            self._hypotheses.clear()
            self._num_partials = 0
            if rest:
                start = self._next_start_s()
                end = max(start, self._heard_s)
                self._finished.append(Partial(self._segment, start, end, rest, "", self._language))
        events, self._finished = self._finished, []
        return events

    def _reconciled(
        self, closed: Closed, transcript: Transcript
    ) -> Generator[Future[Transcript], Transcript, tuple[Transcript, str]]:
        """A final that begins with its confirmed text, and the confirmed text that belongs to the next segment."""
        confirmed = self._confirmed
        if transcript.text.startswith(confirmed):
            return transcript, ""
        if self._next_start_s() + self._live.rules.padding_s < self._heard_s:  # it was cut during speech
            kept, rest = split_after(confirmed, len(split_words(transcript.text)))
            if rest:
                return with_text(transcript, kept), rest
        with contextlib.suppress(QueueFullError):
            transcript = yield self._submit(closed.audio, self._options, confirmed)
        if transcript.text.startswith(confirmed):
            return transcript, ""
        return with_text(transcript, confirmed), ""

    def _next_start_s(self) -> float:
        """Start (s) of the segment after the one that waits for its final; infinity if none has begun."""
        following = self._closed[0].span if self._closed else self._segmenter.open
        return math.inf if following is None else following.start

    def _partial(self) -> Steps:
        """A partial of the open segment, if one is due."""
        opened, now = self._segmenter.open, self._recent.end_s
        if opened is None or not self._is_due(opened.start, now):
            return []
        span = SpeechSpan(opened.start, now)
        try:
            transcript = yield self._submit(
                self._recent.cut(span), replace(self._options, timestamps=False), self._confirmed
            )
        except QueueFullError:  # skip this partial; the next one covers its audio
            return []
        self._heard_s = span.end
        text = transcript.text
        self._note_sentence(text)
        if not text.startswith(self._confirmed) or not (text or self._num_partials):
            return []
        self._num_partials += 1
        self._hypotheses.append(text)
        confirmed = self._confirmed = self._confirmable(text)
        self._language = transcript.language
        return [Partial(self._segment, span.start, span.end, confirmed, text.removeprefix(confirmed), self._language)]

    def _is_due(self, start: float, now: float) -> bool:
        """Whether chunk_ms of new audio have come, or a pause after speech that the last partial does not cover."""
        is_waiting = any(self._has_marks.values()) and self._live.rules.mid_sentence_ms > 0
        has_paused = self._heard_s < self._segmenter.speech_end_s <= now - _PAUSE_S
        return (is_waiting and has_paused) or now - max(self._heard_s, start) >= self._live.chunk_ms / 1000

    def _note_sentence(self, text: str) -> None:
        """Tell the segmenter how far the text goes, if it stops within a sentence."""
        is_whole = ends_sentence(text)
        has_marks = self._has_marks[is_unspaced(text)] = is_whole or self._has_marks[is_unspaced(text)]
        is_mid_sentence = bool(text) and not is_whole and has_marks
        self._segmenter.mid_sentence_to_s = self._heard_s if is_mid_sentence else 0.0

    def _confirmable(self, text: str) -> str:
        """The part of a hypothesis that can be confirmed; it begins with the text confirmed before."""
        live = self._live
        if self._num_partials < max(live.agreeing_partials, live.unfixed_partials):
            return self._confirmed
        agreed = sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*self._hypotheses, strict=False)))
        longest = min(agreed, len(text) - live.rollback_chars)
        prefix = token_prefix(self._service.model.tokenizer, text, longest, drop_tokens=live.rollback_tokens)
        return max(self._confirmed, prefix, key=len)

    def _submit(self, audio: Waveform, options: TranscribeOptions, prefix: str = "") -> Future[Transcript]:
        # Where the model names the language at the beginning of its answer, the prefix lacks it: ask for that language.
        if prefix and is_auto(options.request.language):
            options = replace(options, request=replace(options.request, language=self._language))
        last = self._hypotheses[-1] if self._hypotheses else ""  # of this segment, where it is the one to be heard
        service = self._service
        return self._note(
            service.submit(audio, options, key=self._key, answer_prefix=prefix, is_speech=True, draft=last)
        )

    def _note(self, future: Future[Done]) -> Future[Done]:
        """Remember what has been asked for, so that cancel() can drop it."""
        self._asked = [*(asked for asked in self._asked if not asked.done()), future]
        return future
