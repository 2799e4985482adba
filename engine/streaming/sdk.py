"""FunASR's streaming SDK over live sessions: from_pretrained(...), streaming_generate(audio) and its fields."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from ..audio.inputs import Input, expand_inputs
from ..audio.loading import load
from ..audio.waveform import SAMPLE_RATE
from ..auto import AutoModelVLLM
from ..checks import check_arguments, check_options
from ..closing import Closing
from ..errors import ConfigError
from ..options import RequestOptions, SessionOptions
from ..run_options import TranscribeOptions, transcribe_options
from ..service import TranscriptionService
from ..speakers.stage import enrolled
from ..vad import LIVE_RULES, checked_schedule, load_vad
from .events import TextSoFar
from .session import AsyncStreamingSession, LiveOptions, StreamingSession
from .speakers import LiveSpeakers


class StreamingResult(TypedDict):
    """The text after one more chunk of the audio."""

    text: str  # all text so far
    fixed_text: str  # the beginning of `text` that will not change
    chunk_idx: int  # from 1
    is_final: bool  # True for the last result only, whose fixed_text is its text
    audio_duration_ms: float  # audio so far


class FunASRNanoStreamingVLLM(Closing):
    """A loaded model for live audio. Any number of sessions may be open at once; they share both stages.

    Usable as a context manager; `close()` frees the model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        chunk_ms: float = 720.0,
        rollback_chars: int = 8,
        vad: str | Path = "silero",
        max_segment_s: float = LIVE_RULES.max_segment_s,
        silence_schedule: Iterable[tuple[float, float]] | None = None,
        dynamic_silence: bool = True,
        **options: Any,
    ) -> None:
        """Load the model.

        Args:
            model: see AutoModelVLLM, which takes `options` as well.
            chunk_ms: new audio between two partials.
            rollback_chars: number of characters at the end of a partial that are never confirmed.
            vad: "silero", or the directory of an fsmn-vad checkpoint.
            max_segment_s: speech without a pause is cut after so many seconds at the latest.
            silence_schedule: [(age, silence), ...] in ms: a segment of up to this age is closed by this much silence.
                None is 670 ms, or 1170 ms where the text stops within a sentence. FunASR's table is
                `twostage_asr.engine.vad.STREAMING_SCHEDULE`.
            dynamic_silence: False closes every segment after 800 ms of silence.

        Raises:
            ConfigError, HubError, CheckpointError.
        """
        check_arguments(
            FunASRNanoStreamingVLLM.__init__,
            vad=vad,
            max_segment_s=max_segment_s,
            silence_schedule=silence_schedule,
            dynamic_silence=dynamic_silence,
        )
        rules = replace(LIVE_RULES, max_segment_s=max_segment_s)
        if silence_schedule is not None or not dynamic_silence:
            rules = rules.with_silence(checked_schedule(silence_schedule, dynamic=dynamic_silence, default=()))
        self.live = LiveOptions(vad=load_vad(vad), chunk_ms=chunk_ms, rollback_chars=rollback_chars, rules=rules)
        self._model = AutoModelVLLM(model, **options)
        self.service = TranscriptionService(self._model.transcriber)

    @classmethod
    def from_pretrained(cls, model: str | Path, **options: Any) -> Self:
        """The same as FunASRNanoStreamingVLLM(model, ...), by FunASR's name."""
        return cls(model, **options)

    def session(self, *, key: str = "live", **options: Unpack[SessionOptions]) -> StreamingSession:
        """Open a stream of audio.

        With `speakers`, the words and segments of finals carry a speaker, and relabel() of the session says at the end
        which names are one speaker's. The first such session loads the speaker model.

        Raises:
            ConfigError: an unknown option or an invalid value, or a known speaker's clip that is too short.
            HubError, CheckpointError, AudioError: there is no speaker model, or a known speaker's clip cannot be read.
        """
        asked = session_options(**options)
        plain = replace(asked, speakers=None)
        return StreamingSession(self.service, plain, self.live, key=key, speakers=self._speakers(asked))

    def async_session(self, *, key: str = "live", **options: Unpack[SessionOptions]) -> AsyncStreamingSession:
        """The same for use on an event loop, which waits here until a speaker model is loaded and clips are read."""
        asked = session_options(**options)
        plain = replace(asked, speakers=None)
        return AsyncStreamingSession(self.service, plain, self.live, key=key, speakers=self._speakers(asked))

    def _speakers(self, options: TranscribeOptions) -> LiveSpeakers | None:
        settings = options.speakers
        if settings is None:
            return None
        known = enrolled(self._model.transcriber.speaker_model(), settings)
        return LiveSpeakers(self.service, count=settings.count, known=known)

    def streaming_generate(
        self,
        audio: Input,
        *,
        chunk_ms: float | None = None,
        rollback_chars: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Iterator[StreamingResult]:
        """Transcribe one input as if it were live, in chunks of chunk_ms, as fast as it can be decoded.

        Args:
            audio: one input of AutoModelVLLM.generate.
            chunk_ms, rollback_chars: for this input; None is what the model was built with.
            options: how to transcribe; see RequestOptions.

        Raises:
            ConfigError: `audio` is not one input, or an option is unknown or invalid.
            AudioError: the input cannot be read.
        """
        items = [] if audio is None else expand_inputs(audio)
        if len(items) != 1:
            raise ConfigError(f"streaming_generate takes one input, got {len(items)}")
        check_options(options, RequestOptions, others=("audio", "chunk_ms", "rollback_chars"))
        live = self.live if chunk_ms is None else replace(self.live, chunk_ms=chunk_ms)
        live = live if rollback_chars is None else replace(live, rollback_chars=rollback_chars)
        session = StreamingSession(self.service, session_options(**options), live, key=items[0].key)
        waveform = load(items[0])
        chunk = max(1, round(live.chunk_ms * SAMPLE_RATE / 1000))
        so_far = TextSoFar()
        starts = range(0, len(waveform), chunk)
        for index, start in enumerate(starts, start=1):
            is_final = index == len(starts)
            events = session.push(waveform[start : start + chunk])
            so_far.add(events + session.finish() if is_final else events)
            heard = min(start + chunk, len(waveform))
            yield StreamingResult(
                text=so_far.text,
                fixed_text=so_far.fixed_text,
                chunk_idx=index,
                is_final=is_final,
                audio_duration_ms=heard * 1000 / SAMPLE_RATE,
            )

    def close(self) -> None:
        """Drop what is being decoded and free the model; idempotent."""
        self.service.close()
        self._model.close()


def session_options(**options: Unpack[SessionOptions]) -> TranscribeOptions:
    """The options of `generate` that apply to live audio, checked.

    Raises:
        ConfigError: an option is unknown or invalid.
    """
    check_options(options, SessionOptions, others=("key",))
    return transcribe_options(**options)
