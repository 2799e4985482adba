"""The seam of voice activity detection: samples -> how likely each frame is speech.

A model is loaded once; each stream of samples (a file, a microphone) has a stream of its own, which remembers what it
heard. The sizes of the pieces that are pushed never change a probability.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..audio.waveform import Waveform


@dataclass(frozen=True, slots=True, order=True)
class SpeechSpan:
    """Where somebody speaks; seconds from the start of the stream, half-open."""

    start: float
    end: float


class VoiceActivityStream(Protocol):
    """What a model hears of one stream."""

    frame_s: float  # frame i lasts from i * frame_s to (i + 1) * frame_s
    threshold: float  # probability from which a frame is speech, as the model's authors have it

    def push(self, samples: Waveform) -> npt.NDArray[np.float32]:
        """(N,) float32 at 16 kHz -> (F,) probabilities of speech of the frames that these samples complete."""


class VoiceActivityModel(Protocol):
    """A loaded model. Its streams may be used in several threads, each stream in one."""

    frame_s: float

    def new_stream(self) -> VoiceActivityStream:
        """A stream that has heard nothing yet."""
