"""The interface of voice activity detection models: samples -> speech probability of each frame.

A model is loaded once. Each source of samples (a file, a microphone) gets its own VoiceActivityStream, which keeps the
network's state. The sizes of the pushed chunks never change a probability.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..audio.waveform import Waveform


@dataclass(frozen=True, slots=True, order=True)
class SpeechSpan:
    """A half-open interval of speech, in seconds from the start of the stream."""

    start: float
    end: float


class VoiceActivityStream(Protocol):
    """Computes the speech probabilities of one stream of samples."""

    frame_s: float  # frame i lasts from i * frame_s to (i + 1) * frame_s
    threshold: float  # default: a frame with at least this probability is speech

    def push(self, samples: Waveform) -> npt.NDArray[np.float32]:
        """(N,) float32 at 16 kHz -> (F,) speech probabilities of the frames that these samples complete."""


class VoiceActivityModel(Protocol):
    """A loaded model. Different streams may run in different threads; one stream may not."""

    def new_stream(self) -> VoiceActivityStream:
        """A stream in its initial state."""
