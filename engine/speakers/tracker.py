"""SpeakerTracker: names the speakers of live audio as they speak."""

from dataclasses import dataclass, field

import numpy as np

from .clustering import MAX_SPEAKERS, SpeakerCount, centres_of, cluster
from .enrolment import KNOWN_SIMILARITY, KnownSpeakers
from .model import Embeddings

SAME_VOICE = 0.50  # cosine similarity to a running centre from which on a stretch is of that speaker
MAX_KEPT = 2000  # stretches that relabel() groups; beyond, neighbours in time that share a name are joined
_SURE_S = 1.0  # a shorter stretch founds no speaker if there is one already


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    name: str
    embedding: Embeddings  # (D,), of length 1
    seconds: float


@dataclass(slots=True, eq=False)
class SpeakerTracker:
    """Running centres of a session's speakers.

    A name, once given, means the same voice for the session, so a speaker who returns after an hour has it again.
    Memory is bounded, however long the session is: MAX_KEPT stretches of 1 kB each, and as many centres as names.
    """

    known: KnownSpeakers | None = None
    count: SpeakerCount = field(default_factory=SpeakerCount)
    _sums: dict[str, Embeddings] = field(default_factory=dict)  # name -> sum of its embeddings, each times its seconds
    _kept: list[_Stretch] = field(default_factory=list)
    _num_named: int = 0  # names "SPK0", "SPK1", ... that were given

    def assign(self, embedding: Embeddings, duration: float) -> str:
        """The speaker of a stretch: its embedding (D,) of length 1, and its length in seconds."""
        seconds = max(duration, 0.1)
        name, is_alike = self._name(embedding, duration)
        if is_alike:  # what is only nearest would blur the centre
            before = self._sums.get(name, np.zeros_like(embedding))
            self._sums[name] = before + embedding * np.float32(seconds)
        self._kept.append(_Stretch(name, embedding, seconds))
        if len(self._kept) > MAX_KEPT:
            self._kept = _halved(self._kept)
        return name

    def relabel(self) -> dict[str, str]:
        """The names to use in place of those given so far, after grouping all that was heard: old -> new.

        Names that turn out to be one speaker become the one that was given first, which alone is given from now on.
        No name becomes several, and no known speaker's becomes another.
        """
        names = list(self._sums)
        new = {name: name for name in names}
        if len(names) < 2:
            return new
        embeddings = np.stack([stretch.embedding for stretch in self._kept])
        groups = cluster(embeddings, [stretch.seconds for stretch in self._kept], self.count)
        votes = {name: np.zeros(int(groups.max()) + 1) for name in names}
        for stretch, group in zip(self._kept, groups, strict=True):
            votes[stretch.name][group] += stretch.seconds
        known = () if self.known is None else self.known.names
        leaders: dict[int, str] = {}
        for name in sorted(names, key=lambda name: name not in known):  # a known speaker's name stands for its group
            leader = leaders.setdefault(int(np.argmax(votes[name])), name)
            new[name] = name if name in known else leader
        self._join(new)
        return new

    def _name(self, embedding: Embeddings, duration: float) -> tuple[str, bool]:
        """The name for a stretch, and whether it sounds like that speaker."""
        if self.known is not None and self.known.names:
            similarities = self.known.embeddings @ embedding
            best = int(np.argmax(similarities))
            if similarities[best] >= KNOWN_SIMILARITY:
                return self.known.names[best], True
        if self._sums:
            centres = np.stack(list(self._sums.values()))
            similarities = centres @ embedding / np.maximum(np.linalg.norm(centres, axis=1), 1e-9)
            best = int(np.argmax(similarities))
            most = min(self.count.exact or self.count.most, MAX_SPEAKERS)
            is_alike = bool(similarities[best] >= SAME_VOICE)
            if is_alike or duration < _SURE_S or len(self._sums) >= most:
                return list(self._sums)[best], is_alike
        while (name := f"SPK{self._num_named}") in (() if self.known is None else self.known.names):
            self._num_named += 1
        self._num_named += 1
        return name, True

    def _join(self, new: dict[str, str]) -> None:
        sums: dict[str, Embeddings] = {}
        for name, total in self._sums.items():
            sums[new[name]] = sums[new[name]] + total if new[name] in sums else total
        self._sums = sums
        self._kept = [_Stretch(new[each.name], each.embedding, each.seconds) for each in self._kept]


def _halved(kept: list[_Stretch]) -> list[_Stretch]:
    """Each two neighbours in time of one name joined to one."""
    waiting: dict[str, _Stretch] = {}
    joined: list[_Stretch] = []
    for stretch in kept:
        first = waiting.pop(stretch.name, None)
        if first is None:
            waiting[stretch.name] = stretch
            continue
        total = first.embedding * np.float32(first.seconds) + stretch.embedding * np.float32(stretch.seconds)
        joined.append(_Stretch(stretch.name, centres_of(total[None], [0])[0], first.seconds + stretch.seconds))
    return [*joined, *waiting.values()]
