"""SpeakerTracker: names the speakers of live audio as they speak."""

from dataclasses import dataclass, field

import numpy as np

from .clustering import MAX_SPEAKERS, SpeakerCount, cluster
from .enrolment import KNOWN_SIMILARITY, KnownSpeakers, centres_of
from .model import Embeddings

SAME_VOICE = 0.45  # cosine similarity to a running centre from which on a stretch is of that speaker
_SURE_S = 1.0  # a shorter stretch founds no speaker if there is one already
_MAX_KEPT = 4000  # stretches that relabel() groups; beyond, neighbours in time that share a label are joined


@dataclass(slots=True, eq=False)
class SpeakerTracker:
    """Running centres of a session's speakers. Memory is bounded, however long the session is."""

    known: KnownSpeakers | None = None
    count: SpeakerCount = field(default_factory=SpeakerCount)
    _names: list[str] = field(default_factory=list)
    _sums: list[Embeddings] = field(default_factory=list)
    _kept: list[tuple[int, Embeddings, float]] = field(default_factory=list)  # label, direction, seconds

    def assign(self, embedding: Embeddings, duration: float) -> str:
        """The speaker of a stretch: its embedding (D,) of length 1, and its length in seconds."""
        label = self._label(embedding, duration)
        self._sums[label] = self._sums[label] + embedding * np.float32(max(duration, 0.1))
        self._kept.append((label, embedding, duration))
        if len(self._kept) > _MAX_KEPT:
            self._join_kept()
        return self._names[label]

    def relabel(self) -> dict[str, str]:
        """The names to use in place of those given so far, after grouping all that was heard: old -> new.

        Speakers that turn out to be one get the name of the one heard first. No speaker is split.
        """
        if len(self._sums) < 2:
            return {name: name for name in self._names}
        embeddings = np.stack([embedding for _, embedding, _ in self._kept])
        groups = cluster(embeddings, [duration for _, _, duration in self._kept], self.count)
        votes = np.zeros((len(self._names), int(groups.max()) + 1))
        for (label, _, duration), group in zip(self._kept, groups, strict=True):
            votes[label, group] += duration
        leader: dict[int, str] = {}
        mapping: dict[str, str] = {}
        for label, name in enumerate(self._names):
            group = int(np.argmax(votes[label]))
            is_known = self.known is not None and name in self.known.names
            mapping[name] = name if is_known else leader.setdefault(group, name)
            leader.setdefault(group, name)
        return mapping

    def _label(self, embedding: Embeddings, duration: float) -> int:
        if self.known is not None and self.known.names:
            similarities = self.known.embeddings @ embedding
            best = int(np.argmax(similarities))
            if similarities[best] >= KNOWN_SIMILARITY:
                return self._labelled(self.known.names[best], embedding)
        if self._sums:
            centres = np.stack(self._sums)
            similarities = centres @ embedding / np.maximum(np.linalg.norm(centres, axis=1), 1e-9)
            best = int(np.argmax(similarities))
            most = min(self.count.exact or self.count.most, MAX_SPEAKERS)
            if similarities[best] >= SAME_VOICE or duration < _SURE_S or len(self._sums) >= most:
                return best
        unnamed = sum(name.startswith("SPK") for name in self._names)
        return self._labelled(f"SPK{unnamed}", embedding)

    def _labelled(self, name: str, embedding: Embeddings) -> int:
        if name not in self._names:
            self._names.append(name)
            self._sums.append(np.zeros_like(embedding))
        return self._names.index(name)

    def _join_kept(self) -> None:
        """Halve what is kept: each two neighbours in time of one label become one."""
        joined: dict[int, tuple[int, Embeddings, float]] = {}
        kept: list[tuple[int, Embeddings, float]] = []
        for label, embedding, duration in self._kept:
            if label not in joined:
                joined[label] = (label, embedding, duration)
                continue
            _, before, before_s = joined.pop(label)
            mean = before * np.float32(before_s) + embedding * np.float32(duration)
            kept.append((label, centres_of(mean[None], [0])[0], before_s + duration))
        self._kept = [*kept, *joined.values()]
