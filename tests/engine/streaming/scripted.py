"""A voice activity model and a service that do as they are told, for what real ones do rarely."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from twostage_asr.engine import QueueFullError, Transcript
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.families.base import ModelFamily
from twostage_asr.engine.model_lock import ModelLock
from twostage_asr.engine.run_options import TranscribeOptions
from twostage_asr.engine.text import LLMTokenizer
from twostage_asr.engine.vad import VoiceActivityStream

FRAME_S = 0.1
FAILED = "\0"  # in place of an answer


class LoudIsSpeech:
    """A frame is speech if its last sample is not zero."""

    def new_stream(self) -> VoiceActivityStream:
        return _LoudIsSpeechStream()


class _LoudIsSpeechStream:
    frame_s = FRAME_S
    threshold = 0.5

    def __init__(self) -> None:
        self._samples = np.zeros(0, np.float32)

    def push(self, samples: Any) -> Any:
        self._samples = np.concatenate([self._samples, samples])
        size = round(FRAME_S * SAMPLE_RATE)
        frames = self._samples[: len(self._samples) // size * size].reshape(-1, size)
        self._samples = self._samples[frames.size :]
        return (frames[:, -1] != 0).astype(np.float32)


def speech(*seconds: float) -> Any:
    """Speech, silence, speech, ... of these lengths."""
    parts = [np.full(round(s * SAMPLE_RATE), 1 - i % 2, np.float32) for i, s in enumerate(seconds)]
    return np.concatenate(parts)


@dataclass
class Model:
    """What a session asks of the model itself."""

    family: ModelFamily
    tokenizer: LLMTokenizer
    lock: ModelLock = field(default_factory=ModelLock)


@dataclass
class Submitted:
    """What a session asked of the service."""

    duration: float
    answer_prefix: str
    is_partial: bool
    language: str | None
    draft: str
    future: Future[Transcript]


@dataclass
class ScriptedService:
    """Answers at once with what `answer` says, or with nothing yet if that is None."""

    model: Model
    answer: Callable[[Submitted], str | None]
    is_full: bool = False
    language: str | None = None  # that is heard
    submitted: list[Submitted] = field(default_factory=list)

    def submit(
        self,
        waveform: Sequence[float],
        options: TranscribeOptions,
        *,
        key: str = "audio",
        answer_prefix: str = "",
        is_speech: bool = False,
        draft: str = "",
    ) -> Future[Transcript]:
        assert is_speech
        if self.is_full:
            raise QueueFullError("full")
        duration = len(waveform) / SAMPLE_RATE
        language = options.request.language
        asked = Submitted(duration, answer_prefix, not options.timestamps, language, draft, Future())
        self.submitted.append(asked)
        text = self.answer(asked)
        if text == FAILED:
            asked.future.set_result(Transcript(key=key, duration=duration, status="error", error="it failed"))
        elif text is not None:
            asked.future.set_result(Transcript(key=key, text=text, language=self.language, duration=duration))
        return asked.future
