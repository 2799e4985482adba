"""Records of what was changed in one input's audio while it was read; they become warnings of its transcript."""

from dataclasses import dataclass, field

from ..transcript import TranscriptWarning

_MOST_NAMED = 8  # places that a message lists; further ones are only counted
_JOINED_S = 0.01  # spans at most this far apart are merged


@dataclass(slots=True, eq=False)
class _Spans:
    """Spans of time, added in order. Only the first _MOST_NAMED are kept, so memory is bounded."""

    named: list[tuple[float, float]] = field(default_factory=list)
    num_more: int = 0
    total_s: float = 0.0
    _end_s: float = float("-inf")

    def add(self, start_s: float, end_s: float) -> None:
        if start_s - self._end_s > _JOINED_S:
            self.named.append((start_s, end_s))
        elif not self.num_more:
            self.named[-1] = (self.named[-1][0], end_s)
        if len(self.named) > _MOST_NAMED:
            self.named.pop()
            self.num_more += 1
        self.total_s += end_s - start_s
        self._end_s = end_s

    def __str__(self) -> str:
        return _listed([f"{start:.2f} to {end:.2f} s" for start, end in self.named], self.num_more)


class Notes:
    """Collects what was filled in, skipped or left out, and summarises it as warnings."""

    def __init__(self) -> None:
        self._gaps = _Spans()
        self._cancelled: dict[int, _Spans] = {}  # keyed by the channel that was used instead of the mean
        self._skipped_places: list[str] = []
        self._num_skips = 0
        self._num_skipped = 0  # bytes
        self._others: list[TranscriptWarning] = []

    def add_gap(self, start_s: float, end_s: float) -> None:
        """Record that silence was inserted, because the file has no audio for this time."""
        self._gaps.add(start_s, end_s)

    def add_cancelled(self, channel: int, start_s: float, end_s: float) -> None:
        """Record that `channel` was used instead of the mean, in which the channels cancel each other."""
        self._cancelled.setdefault(channel, _Spans()).add(start_s, end_s)

    def add_skipped(self, num_bytes: int, place: str) -> None:
        """Record skipped bytes that are not audio; `place` is a phrase such as "at 2.52 s"."""
        self._num_skipped += num_bytes
        self._num_skips += 1
        if len(self._skipped_places) < _MOST_NAMED:
            self._skipped_places.append(place)

    def add(self, warning: TranscriptWarning) -> None:
        """Record any other warning. Only the first _MOST_NAMED are kept."""
        if len(self._others) < _MOST_NAMED:
            self._others.append(warning)

    def warnings(self) -> tuple[TranscriptWarning, ...]:
        """The warnings for what has been recorded so far."""
        found = list(self._others)
        if self._gaps.named:
            message = f"the file has no audio at {self._gaps}; {self._gaps.total_s:.2f} s of silence were put in"
            found.append(TranscriptWarning("filled_gap", message))
        for channel, spans in self._cancelled.items():
            message = f"the channels cancel each other at {spans}; channel {channel} alone was heard there"
            found.append(TranscriptWarning("louder_channel", message))
        if self._num_skips:
            places = _listed(self._skipped_places, self._num_skips - len(self._skipped_places))
            message = f"{self._num_skipped:,} bytes that are not audio were skipped: {places}"
            found.append(TranscriptWarning("skipped_bytes", message))
        return tuple(found)


def _listed(places: list[str], num_more: int) -> str:
    return ", ".join(places) + (f" and {num_more} other places" if num_more else "")
