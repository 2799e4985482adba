"""The audio of one request, whole or in segments, and its partial text while the segments are decoded."""

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
    """Audio that has been read: one cut if it is short, else the segments in which somebody speaks."""

    cuts: list[Cut]
    duration: float  # s
    is_whole: bool  # there is one cut, which is all of the audio
    warnings: tuple[TranscriptWarning, ...] = ()  # from reading it


class GrowingText:
    """The partial text of a recording whose segments are decoded in parallel.

    It ends with the partial text of the first unfinished segment, so that segments appear in order.
    """

    def __init__(self, num_segments: int, on_text: OnText | None) -> None:
        self._texts = [""] * num_segments
        self._num_finished = 0  # finished segments from the first on, without a gap
        self._is_finished = [False] * num_segments
        self._on_text = on_text
        self._loop = asyncio.get_running_loop()

    def listener(self, number: int) -> OnText | None:
        """The on_text callback for this segment, which the service calls in its own thread."""
        if self._on_text is None:
            return None

        def tell(text: str) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has been closed
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
