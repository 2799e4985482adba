"""A service that hears a word in each half second, and whose voices are told apart by their loudness."""

from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.fake_model import FakeFamily, FakeTokenizer, samples
from tests.fake_voices import FakeVoices
from twostage_asr.engine import Transcript
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.errors import InternalError
from twostage_asr.engine.model_lock import ModelLock
from twostage_asr.engine.run_options import TranscribeOptions
from twostage_asr.engine.speakers.model import Embeddings
from twostage_asr.engine.transcript import Segment, Word

WORD_S = 0.5


def talk(*parts: tuple[int, float]) -> Waveform:
    """(voice, seconds) one after the other; voice 0 is silence."""
    return np.concatenate([samples(voice, seconds) for voice, seconds in parts])


class VoicedService:
    """Answers at once, as a TranscriptionService does sooner or later."""

    def __init__(self) -> None:
        self.model: Any = SimpleNamespace(family=FakeFamily(), tokenizer=FakeTokenizer(), lock=ModelLock())
        self._voices = FakeVoices()

    def submit(
        self, waveform: Waveform, options: TranscribeOptions, *, key: str = "audio", **_: Any
    ) -> Future[Transcript]:
        future: Future[Transcript] = Future()
        duration = len(waveform) / SAMPLE_RATE
        starts = np.arange(0, duration - WORD_S, WORD_S).tolist()
        words = tuple(Word(f"w{i}", start, start + WORD_S, 0.9) for i, start in enumerate(starts))
        text = " ".join(word.text for word in words) + "."
        segment = Segment(0.0, duration, text, words, 0.9)
        future.set_result(Transcript(key, text, "en", words, (segment,), duration))
        return future

    def embed(self, waveform: Waveform, windows: Sequence[tuple[int, int]]) -> Future[Embeddings]:
        future: Future[Embeddings] = Future()
        try:
            future.set_result(self._voices.embed([waveform[start:end] for start, end in windows]))
        except RuntimeError as error:
            future.set_exception(InternalError(str(error)))
        return future
