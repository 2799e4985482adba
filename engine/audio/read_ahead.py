"""The inputs of one list that are read ahead of the consumer, and the order in which their audio is taken.

READ_AHEAD inputs are read ahead at most. While READ_AHEAD_BYTES wait to be taken, no further one is pulled or begun.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import AudioError
from ..vad.splitting import Cutting, Piece
from .decode import SAMPLE_RATE
from .inputs import AudioInput

READ_AHEAD = 1024  # inputs
READ_AHEAD_BYTES = 256 << 20  # waveforms (over an hour of audio) and sources held in memory

Audio: TypeAlias = Piece | AudioError
# The output for one input: Pieces up to the last one, or up to an error. Most inputs have one Piece.
Reading: TypeAlias = Generator[Audio, None, None]


@dataclass(slots=True, eq=False)
class _Entry:
    """One input, from when it is pulled until its last output is taken."""

    index: int
    item: AudioInput
    num_bytes: int  # memory held by its source and its waveforms
    reading: Reading
    future: Future[Audio] | None = None  # its next output; None before it is begun


class ReadAhead:
    """The inputs of one read() that were pulled and not yet taken.

    Inputs are begun in order, by the consumer and by threads that have finished one, so that no thread waits for the
    consumer. An input that is cut counts as running until its last piece has been read. After each piece it moves back
    to position `in_turn - 1`, so `in_turn` recordings alternate. Since `in_turn` is at most the number of threads, the
    head entry is always running, and `take()` cannot deadlock.
    """

    def __init__(
        self,
        read_one: Callable[[AudioInput], Reading],
        threads: ThreadPoolExecutor,
        *,
        num_threads: int,
        in_turn: int,
        cutting: Cutting | None,
    ) -> None:
        self._read_one = read_one
        self._threads = threads
        self._num_threads = num_threads
        self._in_turn = in_turn
        self._whole_s = math.inf if cutting is None else cutting.whole_s
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque()  # in the order in which they are taken
        self._waiting: deque[_Entry] = deque()  # those that have not begun
        self._num_pulled = 0
        self._num_running = 0
        self._num_bytes = 0
        self._is_cancelled = False

    @property
    def is_empty(self) -> bool:
        return not self._entries

    @property
    def is_full(self) -> bool:
        """Whether an output must be taken before another input is added.

        The first `in_turn` entries are always pulled first; otherwise the output's order would depend on timing.
        """
        if len(self._entries) < self._in_turn:
            return False
        return len(self._entries) >= READ_AHEAD or self._num_bytes >= READ_AHEAD_BYTES

    def add(self, item: AudioInput) -> None:
        entry = _Entry(self._num_pulled, item, item.num_bytes, self._read_one(item))
        self._num_pulled += 1
        self._entries.append(entry)
        with self._lock:
            self._num_bytes += entry.num_bytes
            waveform = item.waveform
            if waveform is None or len(waveform) > self._whole_s * SAMPLE_RATE:
                self._waiting.append(entry)
            self._begin()

    def take(self, wait_s: float | None) -> tuple[int, AudioInput, Audio] | None:
        """The next output of the head entry; None if it is not ready within `wait_s` seconds."""
        entry = self._entries[0]
        if entry.future is not None and not entry.future.done() and not wait([entry.future], wait_s).done:
            return None
        self._entries.popleft()
        audio = next(entry.reading) if entry.future is None else entry.future.result()
        with self._lock:
            if is_last(audio):
                self._num_bytes -= entry.num_bytes
            else:
                entry.future = self._threads.submit(self._run, entry)
                self._entries.insert(self._in_turn - 1, entry)
            self._begin()
        return entry.index, entry.item, audio

    def cancel(self) -> None:
        """Drop the inputs that have not begun, and end the reading of those that have."""
        with self._lock:
            self._is_cancelled = True
            self._waiting.clear()
        for entry in self._entries:
            if entry.future is None or entry.future.cancel() or entry.future.done():
                entry.reading.close()

    def _begin(self) -> None:
        """Begin as many inputs as there are free threads. The caller holds the lock."""
        while self._waiting and self._num_running < self._num_threads:
            if self._num_bytes >= READ_AHEAD_BYTES and self._waiting[0] is not self._entries[0]:
                return
            entry = self._waiting.popleft()
            entry.future = self._threads.submit(self._run, entry)
            self._num_running += 1

    def _run(self, entry: _Entry) -> Audio:
        audio: Audio | None = None
        try:
            audio = next(entry.reading)
        finally:
            with self._lock:
                if audio is None or is_last(audio):
                    self._num_running -= 1
                if isinstance(audio, Piece) and audio.is_whole:
                    num_bytes = sum(cut.waveform.nbytes for cut in audio.cuts)
                    entry.num_bytes += num_bytes
                    self._num_bytes += num_bytes
                self._begin()
                is_cancelled = self._is_cancelled
            if is_cancelled:
                entry.reading.close()
        return audio


def is_last(audio: Audio) -> bool:
    return audio.is_last if isinstance(audio, Piece) else True
