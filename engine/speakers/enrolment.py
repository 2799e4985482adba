"""Known speakers: the embeddings of people's reference clips, and which of them a voice is."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..audio.waveform import SAMPLE_RATE, AudioLimits, Waveform
from ..errors import AudioTooLongError, ConfigError
from .model import Embeddings, SpeakerModel

KNOWN_SIMILARITY = 0.45  # cosine similarity to a reference from which on a voice gets its name
MIN_REFERENCE_S = 0.5
REFERENCE_LIMITS = AudioLimits(max_duration_s=60.0, max_bytes=64 << 20, max_cpu_s=30.0)  # more tells no more of a voice


@dataclass(frozen=True, slots=True, eq=False)
class KnownSpeakers:
    """Names, and an embedding for each."""

    names: tuple[str, ...]
    embeddings: Embeddings  # (len(names), D), each row of length 1

    @classmethod
    def enrol(cls, model: SpeakerModel, references: Mapping[str, Waveform]) -> Self:
        """Embed the reference clips, (N,) float32 at 16 kHz each.

        Raises:
            ConfigError: one is too short.
            AudioTooLongError: one is longer than REFERENCE_LIMITS allow.
        """
        for name, waveform in references.items():
            seconds = len(waveform) / SAMPLE_RATE
            if seconds < MIN_REFERENCE_S:
                raise ConfigError(
                    f"known speaker {name!r}: the clip has {seconds:.2f} s; at least {MIN_REFERENCE_S} s of speech is "
                    "needed, and 5 s or more are better"
                )
            if seconds > REFERENCE_LIMITS.max_duration_s:
                raise AudioTooLongError(
                    f"known speaker {name!r}: the clip has {seconds:.0f} s; at most "
                    f"{REFERENCE_LIMITS.max_duration_s:.0f} s are allowed"
                )
        return cls(tuple(references), model.embed(list(references.values())))

    def names_of(self, voices: Sequence[Embeddings]) -> list[str | None]:
        """The name of each of these voices, (D,) of length 1; each name is given at most once."""
        found: list[str | None] = [None] * len(voices)
        if not voices or not self.names:
            return found
        from scipy.optimize import linear_sum_assignment  # half a second, which a run without speakers does not need

        similarities = np.stack(voices) @ self.embeddings.T
        for voice, known in zip(*linear_sum_assignment(-similarities), strict=True):
            if similarities[voice, known] >= KNOWN_SIMILARITY:
                found[voice] = self.names[known]
        return found


def label_names(names: Sequence[str | None]) -> list[str]:
    """The names, and "SPK0", "SPK1", ... in order for those who have none, unless somebody has that very name."""
    labels = (label for number in itertools.count() if (label := f"SPK{number}") not in names)
    return [next(labels) if name is None else name for name in names]
