"""A speaker model without weights: what a window sounds like is a number."""

import threading
from collections.abc import Callable

import numpy as np

from twostage_asr.engine.audio.waveform import Waveform
from twostage_asr.engine.speakers.model import Embeddings, Parts, SpeakerModel

NUM_VOICES = 64
BROKEN = 99  # the number that the model fails on


def loudness(waveform: Waveform) -> int:
    """The number of a clip of tests/fake_model.py."""
    return round(1000 * float(waveform.max(initial=0.0)))


class FakeVoices(SpeakerModel):
    """A speaker model that is its own loader."""

    def __init__(self, number_of: Callable[[Waveform], int] = loudness) -> None:
        self.batches: list[int] = []  # windows of each call
        self.num_warm_ups = 0
        self._number_of = number_of

    def get(self) -> "FakeVoices":
        return self

    def embed_windows(self, parts: Parts) -> Embeddings:
        numbers = [self._number_of(waveform[first:last]) for waveform, windows in parts for first, last in windows]
        self.batches.append(len(numbers))
        if BROKEN in numbers:
            raise RuntimeError("broken")
        return np.eye(NUM_VOICES, dtype=np.float32)[[number % NUM_VOICES for number in numbers]]

    def warm_up(self) -> None:
        self.num_warm_ups += 1


class GatedVoices(FakeVoices):
    """Waits before each batch until it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.free = threading.Event(), threading.Event()

    def embed_windows(self, parts: Parts) -> Embeddings:
        self.begun.set()
        assert self.free.wait(60)
        return super().embed_windows(parts)
