"""The events of a live session: partials of the open segment and finals of closed ones; and their joined text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..segments import join_texts
from ..transcript import Transcript


@dataclass(frozen=True, slots=True)
class Partial:
    """The text of the open segment so far. Times are seconds from the start of the stream."""

    segment: int  # its number, from 0
    start: float
    end: float  # of the audio that the text covers
    confirmed: str  # will not change: later texts of this segment begin with it
    tail: str  # may still change
    language: str | None  # asked for or detected

    @property
    def text(self) -> str:
        return self.confirmed + self.tail


@dataclass(frozen=True, slots=True)
class Final:
    """The transcript of a closed segment, for which there may have been no Partial."""

    segment: int
    start: float
    end: float
    transcript: Transcript  # with times from the start of the stream; empty if the segment holds no speech after all

    @property
    def text(self) -> str:
        return self.transcript.text

    @property
    def language(self) -> str | None:
        return self.transcript.language


Event: TypeAlias = "Partial | Final"


class TextSoFar:
    """Joins the events of a session into one text."""

    def __init__(self) -> None:
        self._finals = ""
        self._confirmed = self._tail = ""  # of the open segment

    def add(self, events: Sequence[Event]) -> None:
        """Add the events of a push or finish."""
        for event in events:
            if isinstance(event, Final):
                self._finals, self._confirmed, self._tail = join_texts([self._finals, event.text]), "", ""
            else:
                self._confirmed, self._tail = event.confirmed, event.tail

    @property
    def text(self) -> str:
        """All text so far, the tail of the open segment included."""
        return join_texts([self._finals, self._confirmed + self._tail])

    @property
    def fixed_text(self) -> str:
        """The beginning of the text that will not change."""
        return join_texts([self._finals, self._confirmed])
