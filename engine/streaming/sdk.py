"""FunASR's streaming SDK over live sessions: from_pretrained(...), streaming_generate(audio) and its fields."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

from ..auto import AutoModelVLLM, transcribe_options
from ..closing import Closing
from ..config import refuse_unknown
from ..errors import ConfigError
from ..inputs import expand_inputs, load
from ..service import TranscriptionService
from ..transcriber import TranscribeOptions
from ..vad import STREAMING_SCHEDULE, SegmentRules, checked_schedule, load_vad
from ..waveform import SAMPLE_RATE
from .events import TextSoFar
from .session import AsyncStreamingSession, LiveOptions, StreamingSession


class StreamingResult(TypedDict):
    """What is known after one more chunk of the audio."""

    text: str  # everything so far
    fixed_text: str  # its beginning that will not change
    chunk_idx: int  # from 1
    is_final: bool  # of the last result alone; its fixed_text is its text
    audio_duration_ms: float  # heard so far


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
        max_segment_s: float = 30.0,
        silence_schedule: Sequence[tuple[float, float]] | None = None,
        dynamic_silence: bool = True,
        **options: Any,
    ) -> None:
        """Load the model.

        Args:
            model: see AutoModelVLLM, whose other arguments are `options`.
            chunk_ms: of new audio between two partials.
            rollback_chars: at the end of a partial, that are never confirmed.
            vad: "silero", or the directory of an fsmn-vad checkpoint.
            max_segment_s: longer speech without a pause is cut.
            silence_schedule: [(age of the segment up to, silence that closes it), ...] in ms; None is FunASR's table
                for live audio.
            dynamic_silence: False closes every segment after 800 ms of silence.

        Raises:
            ConfigError, HubError, CheckpointError.
        """
        schedule = checked_schedule(silence_schedule, dynamic=dynamic_silence, default=STREAMING_SCHEDULE)
        self.live = LiveOptions(
            vad=load_vad(vad),
            chunk_ms=chunk_ms,
            rollback_chars=rollback_chars,
            rules=SegmentRules(max_segment_s=max_segment_s, silence_schedule=schedule),
        )
        self._model = AutoModelVLLM(model, **options)
        self.service = TranscriptionService(self._model.transcriber)

    @classmethod
    def from_pretrained(cls, model: str | Path, **options: Any) -> Self:
        """FunASR's name for building one."""
        return cls(model, **options)

    def session(self, *, key: str = "live", **options: Any) -> StreamingSession:
        """A stream of audio to push to. `options` are those of session_options()."""
        return StreamingSession(self.service, session_options(**options), self.live, key=key)

    def async_session(self, *, key: str = "live", **options: Any) -> AsyncStreamingSession:
        """The same for an event loop."""
        return AsyncStreamingSession(self.service, session_options(**options), self.live, key=key)

    def streaming_generate(self, audio: Any, **options: Any) -> Iterator[StreamingResult]:
        """Hear one input as if it were live, chunk_ms by chunk_ms, as fast as it can be decoded.

        Args:
            audio: one input of AutoModelVLLM.generate.
            options: those of session_options().

        Raises:
            ConfigError: more or fewer inputs than one, or an unknown option. AudioError: it cannot be read.
        """
        items = expand_inputs(audio)
        if len(items) != 1:
            raise ConfigError(f"streaming_generate takes one input, got {len(items)}")
        session = self.session(key=items[0].key, **options)
        waveform = load(items[0])
        chunk = max(1, round(self.live.chunk_ms * SAMPLE_RATE / 1000))
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


def session_options(  # noqa: PLR0913 - arguments of the public facade
    *,
    language: str | None = None,
    context: str = "",
    hotwords: Sequence[str] = (),
    itn: bool = True,
    timestamps: bool = True,
    check: bool = True,
    fallback: Literal["ctc"] | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    **unknown: Any,
) -> TranscribeOptions:
    """Those arguments of AutoModelVLLM.generate that mean something for live audio, checked.

    Raises:
        ConfigError: an unknown argument, or one that cannot work.
    """
    refuse_unknown(session_options, unknown)
    return transcribe_options(
        language=language,
        context=context,
        hotwords=hotwords,
        itn=itn,
        timestamps=timestamps,
        check=check,
        fallback=fallback,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
