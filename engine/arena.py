"""Memory that is taken and given back in pieces: Rows of any memory, and an Arena, which two processes share.

Waveforms and prompts do not pass through sockets, which would copy them several times into fresh memory, with a page
fault for each page: 0.25 s in both processes for 190 MB, on a virtual machine.
"""

import mmap
import os
import threading

import numpy as np
import numpy.typing as npt

from .errors import QueueFullError

ARENA_BYTES = 1 << 30  # 512 clips of 30 s; memory is taken as it is written
_ROOM = 64  # pieces that there is room for at first
_BLOCK = 64  # bytes: the alignment of the pieces of an Arena


class Rows:
    """First fit: consecutive rows are taken at the lowest gap that is large enough, so that few pages are touched.

    Several thousand pieces are taken at a time where a process feeds an engine on another GPU, so that NumPy looks for
    the gap: with 6,000 pieces, to take and give back one costs 15 µs, and 41 µs with a loop over a list.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_taken = 0
        # Gap i lies from _from[i] to _to[i], maybe empty, and piece i from _to[i] to _from[i + 1]. One gap follows all.
        self._from = np.zeros(_ROOM, np.int64)
        self._to = np.zeros(_ROOM, np.int64)
        self._to[0] = num_rows

    @property
    def num_taken(self) -> int:
        """Pieces."""
        return self._num_taken

    def take(self, size: int) -> int | None:
        """The first of `size` rows; None if no gap is so large."""
        count = self._num_taken
        fits = self._to[: count + 1] - self._from[: count + 1] >= size
        gap = int(fits.argmax())
        if not fits[gap]:
            return None
        if count + 2 > len(self._to):
            self._from, self._to = (np.concatenate([each, np.zeros_like(each)]) for each in (self._from, self._to))
        first = int(self._from[gap])
        self._from[gap + 2 : count + 2] = self._from[gap + 1 : count + 1]
        self._to[gap + 1 : count + 2] = self._to[gap : count + 1]
        self._to[gap], self._from[gap + 1] = first, first + size
        self._num_taken += 1
        return first

    def copy(self) -> "Rows":
        """Rows of which the same are taken, to try out what fits."""
        rows = Rows(0)
        rows._num_taken, rows._from, rows._to = self._num_taken, self._from.copy(), self._to.copy()
        return rows

    def give_back(self, first: int) -> None:
        """Free the rows that begin with this one."""
        count = self._num_taken
        piece = int(self._to[:count].searchsorted(first, side="right")) - 1
        self._to[piece:count] = self._to[piece + 1 : count + 1]
        self._from[piece + 1 : count] = self._from[piece + 2 : count + 1]
        self._num_taken -= 1


class Arena:
    """Memory that two processes map. One of them alone takes and frees places in it, in any of its threads."""

    def __init__(self, file: int) -> None:
        """`file`: a descriptor of create(). One that another process used before must not be in use any more."""
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(mmap.mmap(file, 0), np.uint8)
        self._blocks = Rows(len(self.bytes) // _BLOCK)
        self._lock = threading.Lock()

    @staticmethod
    def create(num_bytes: int = ARENA_BYTES) -> int:
        """A file in memory; returns its descriptor. Its memory is freed once no process has it open or mapped."""
        file = os.memfd_create("twostage-asr")
        os.ftruncate(file, num_bytes)
        return file

    def take_bytes(self, num_bytes: int) -> int | None:
        """The place of the first gap that is large enough; None if there is none."""
        with self._lock:
            block = self._blocks.take(max(-(-num_bytes // _BLOCK), 1))
        return None if block is None else _BLOCK * block

    def take(self, num_samples: int) -> int | None:
        """The place of a gap for a waveform, which waveform() then gives; None if there is none."""
        return self.take_bytes(4 * num_samples)

    def free(self, start: int) -> None:
        """Return a place."""
        with self._lock:
            self._blocks.give_back(start // _BLOCK)

    def waveform(self, start: int, num_samples: int) -> npt.NDArray[np.float32]:
        """(N,) float32 at this place, not copied."""
        return self.bytes[start : start + 4 * num_samples].view(np.float32)

    def put(self, waveform: npt.NDArray[np.float32]) -> int:
        """Copy a waveform to a place of its own, which is returned. Raises QueueFullError."""
        start = self.take(len(waveform))
        if start is None:
            raise QueueFullError(f"the clips under way take {len(self.bytes):,} bytes; try again later")
        self.waveform(start, len(waveform))[:] = waveform
        return start
