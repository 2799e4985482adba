"""Feeder: a thread that sends one process its messages, and copies waveforms to where that process reads them.

NumPy copies, and a socket sends, without Python's lock. So several devices are fed side by side, while the thread that
shares out the inputs takes results. A message comes with the copies that it is about, and is sent after them.
"""

import contextlib
import queue
import socket
import threading
from collections.abc import Sequence
from typing import TypeAlias

from ..audio.waveform import Waveform
from ..worker_process import send_packed

Copy: TypeAlias = tuple[Waveform, Waveform]  # to, from
_Entry: TypeAlias = tuple[Sequence[bytes | memoryview], Sequence[Copy]]


class Feeder:
    """Sends until the process has ended, or this is closed."""

    def __init__(self, to: socket.socket) -> None:
        self._to = to
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        threading.Thread(target=self._send_all, name="feed", daemon=True).start()

    def send(self, pieces: Sequence[bytes | memoryview], copies: Sequence[Copy] = ()) -> None:
        """Send a message of pack(), without waiting for it."""
        self._entries.put((pieces, copies))

    def close(self) -> None:
        """Send nothing more than what was given before; idempotent."""
        self._entries.put(None)

    def _send_all(self) -> None:
        with contextlib.suppress(OSError):  # the process has ended
            while (entry := self._entries.get()) is not None:
                pieces, copies = entry
                for to, samples in copies:
                    to[:] = samples
                send_packed(self._to, pieces)
