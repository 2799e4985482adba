"""Known speakers: the embeddings of people's reference clips, and which of them a voice is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ConfigError
from .model import Embeddings, SpeakerModel

KNOWN_SIMILARITY = 0.45  # cosine similarity to a reference from which on a voice gets its name
_MIN_S, _MAX_S = 0.5, 60.0  # of a reference clip; what lies beyond is not used


@dataclass(frozen=True, slots=True, eq=False)
class KnownSpeakers:
    """Names, and an embedding for each."""

    names: tuple[str, ...]
    embeddings: Embeddings  # (len(names), D), each row of length 1

    @classmethod
    def enrol(cls, model: SpeakerModel, references: Mapping[str, Waveform]) -> Self:
        """Embed the reference clips, (N,) float32 at 16 kHz each. Raises ConfigError for one that is too short."""
        for name, waveform in references.items():
            if len(waveform) < _MIN_S * SAMPLE_RATE:
                raise ConfigError(
                    f"known speaker {name!r}: the clip has {len(waveform) / SAMPLE_RATE:.2f} s; at least {_MIN_S} s of "
                    "speech is needed, and 5 s or more are better"
                )
        clips = [waveform[: round(_MAX_S * SAMPLE_RATE)] for waveform in references.values()]
        return cls(tuple(references), model.embed(clips))

    def names_of(self, centres: Embeddings) -> list[str | None]:
        """The name of each of these voices, (K, D) of length 1; each name is given at most once."""
        found: list[str | None] = [None] * len(centres)
        if not len(centres) or not self.names:
            return found
        similarities = centres @ self.embeddings.T
        for voice, known in zip(*linear_sum_assignment(-similarities), strict=True):
            if similarities[voice, known] >= KNOWN_SIMILARITY:
                found[voice] = self.names[known]
        return found


def label_names(num_speakers: int, known: Sequence[str | None] = ()) -> list[str]:
    """ "SPK0", "SPK1", ... for each speaker in order, except those that have a name."""
    names = [*known, *[None] * (num_speakers - len(known))]
    unnamed = iter(range(num_speakers))
    return [f"SPK{next(unnamed)}" if name is None else name for name in names]


def centres_of(embeddings: Embeddings, labels: Sequence[int] | np.ndarray) -> Embeddings:
    """The mean direction of each label from 0 on: (K, D), each row of length 1."""
    sums = np.zeros((int(np.max(labels, initial=-1)) + 1, embeddings.shape[1]), np.float32)
    np.add.at(sums, np.asarray(labels, np.int64), embeddings)
    centres: Embeddings = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return centres
