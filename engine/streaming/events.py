"""What a live session says: partials of the open segment, finals of those that are over, and one text of them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..segments import join_texts
from ..transcript import Transcript


@dataclass(frozen=True, slots=True)
class Partial:
    """What is heard so far of the open segment. Times are seconds from the start of the stream."""

    segment: int  # its number, from 0
    start: float
    end: float  # of the audio that was heard
    confirmed: str  # will not change: later texts of this segment begin with it
    tail: str  # may still change
    language: str | None  # asked for or heard

    @property
    def text(self) -> str:
        return self.confirmed + self.tail


@dataclass(frozen=True, slots=True)
class Final:
    """A segment that is over; its number may be one for which there was no Partial."""

    segment: int
    start: float
    end: float
    transcript: Transcript  # its times are those of the stream; empty where nothing was said after all

    @property
    def text(self) -> str:
        return self.transcript.text

    @property
    def language(self) -> str | None:
        return self.transcript.language


Event: TypeAlias = "Partial | Final"


class TextSoFar:
    """One text of all events of a session."""

    def __init__(self) -> None:
        self._finals = ""
        self._confirmed = self._tail = ""  # of the open segment

    def add(self, events: Sequence[Event]) -> None:
        """Hear what a push or finish gave."""
        for event in events:
            if isinstance(event, Final):
                self._finals, self._confirmed, self._tail = join_texts([self._finals, event.text]), "", ""
            else:
                self._confirmed, self._tail = event.confirmed, event.tail

    @property
    def text(self) -> str:
        """Everything so far."""
        return join_texts([self._finals, self._confirmed + self._tail])

    @property
    def fixed_text(self) -> str:
        """What will not change."""
        return join_texts([self._finals, self._confirmed])
