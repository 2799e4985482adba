"""Audio as requests bring it, in one piece or in segments, and the text of it while it is written."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from ..segments import join_texts
from ..transcript import TranscriptWarning
from ..vad.splitting import Cut

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Audio that has been read: as a whole if it is short, else the segments in which somebody speaks."""

    cuts: list[Cut]
    duration: float  # s
    is_whole: bool  # the only cut is all of it
    warnings: tuple[TranscriptWarning, ...] = ()  # of what happened while it was read


class GrowingText:
    """The text of a recording whose segments are written at the same time: up to the first that is not finished."""

    def __init__(self, num_segments: int, on_text: OnText | None) -> None:
        self._texts = [""] * num_segments
        self._num_finished = 0  # from the first on, without a gap
        self._is_finished = [False] * num_segments
        self._on_text = on_text
        self._loop = asyncio.get_running_loop()

    def listener(self, number: int) -> OnText | None:
        """What the service calls, in its own thread, for this segment."""
        if self._on_text is None:
            return None

        def tell(text: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._hear, number, text)

        return tell

    def finish(self, number: int, text: str) -> None:
        self._is_finished[number] = True
        self._hear(number, text)

    def _hear(self, number: int, text: str) -> None:
        self._texts[number] = text
        while self._num_finished < len(self._texts) and self._is_finished[self._num_finished]:
            self._num_finished += 1
        if self._on_text is not None and number <= self._num_finished:
            self._on_text(join_texts(self._texts[: self._num_finished + 1]))
