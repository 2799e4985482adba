"""The channel between the engine's process and one front end.

Frames pass over a private pair of sockets: a head, and a body that is pickled. Nobody else can write to these sockets.
Waveforms do not pass over them: the front end writes each one into an Arena, memory that both processes map, and the
frame says where it is. So the engine's process copies no audio, and spends some 0.1 ms on a request.
"""

import mmap
import os
import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Any

import numpy as np

from ..audio.waveform import Waveform
from ..decoder.rows import Rows
from ..errors import QueueFullError

ARENA_BYTES = 1 << 30  # of one front end: 512 clips of 30 s; memory is taken as it is written
READ_BYTES = 1 << 18
_BLOCK = 64  # bytes: the alignment of waveforms
_HEAD = struct.Struct("<IIQ")  # bytes of the body, kind, number of the job


class Kind(IntEnum):
    """What a frame is about."""

    READY = auto()  # from a front end: it answers clients
    JOB = auto()  # from a front end: transcribe this
    EMBED = auto()  # from a front end: the speaker embeddings of this; the rest is as for JOB
    CANCEL = auto()  # from a front end: nobody waits for this job any more
    COUNT = auto()  # the number of positions that audio takes in the LLM: the question, and the answer
    SCRAPE = auto()  # to a front end: send your metrics; from a front end: send the metrics of all
    SAMPLES = auto()  # from a front end: its metrics
    METRICS = auto()  # to a front end: those of all, as text
    DONE = auto()  # to a front end: the result, the last frame of its job, as the next two are
    ERROR = auto()
    CANCELLED = auto()
    TEXT = auto()  # to a front end: the text so far
    LEAVE = auto()  # to a front end: shut down, as at SIGTERM; the second time at once
    FAILED = auto()  # to a front end: the engine has failed


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    job: int
    body: bytes

    @property
    def content(self) -> Any:
        return pickle.loads(self.body)


def frame(kind: Kind, job: int = 0, content: object = None) -> bytes:
    body = pickle.dumps(content, protocol=5)
    return _HEAD.pack(len(body), kind, job) + body


class FrameReader:
    """Any pieces of the stream -> whole frames."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> Iterator[Frame]:
        data = self._rest + data if self._rest else data
        start = 0
        while len(data) - start >= _HEAD.size:
            num_bytes, kind, job = _HEAD.unpack_from(data, start)
            end = start + _HEAD.size + num_bytes
            if len(data) < end:
                break
            yield Frame(Kind(kind), job, data[start + _HEAD.size : end])
            start = end
        self._rest = data[start:]


class Outbox:
    """The engine's way of sending: from any thread, and never waiting for a front end that stands still."""

    def __init__(self, to: socket.socket) -> None:
        self._to = to
        self._lock = threading.Lock()
        self._left = bytearray()

    def send(self, data: bytes) -> None:
        with self._lock:
            self._left += data
            self._flush()

    def flush(self) -> None:
        """Send what the socket had no room for. The engine's loop calls this several times a second."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self._left:
            try:
                num_sent = self._to.send(self._left, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:  # the front end has ended, which the loop notices when it reads
                self._left.clear()
                return
            del self._left[:num_sent]


class Arena:
    """Memory for waveforms that two processes map. The front end alone takes and returns places in it."""

    def __init__(self, file: int) -> None:
        """`file`: a descriptor of create(). One that another process used before must not be in use any more."""
        self._bytes = np.frombuffer(mmap.mmap(file, 0), np.uint8)
        self._blocks = Rows(len(self._bytes) // _BLOCK)
        self._lock = threading.Lock()

    @staticmethod
    def create(num_bytes: int = ARENA_BYTES) -> int:
        """A file in memory; returns its descriptor."""
        file = os.memfd_create("twostage-waveforms")
        os.ftruncate(file, num_bytes)
        return file

    def waveform(self, start: int, num_samples: int) -> Waveform:
        """(N,) float32 at this place, not copied."""
        return self._bytes[start : start + 4 * num_samples].view(np.float32)

    def put(self, waveform: Waveform) -> int:
        """Copy a waveform to the first gap that is large enough; returns its place. Raises QueueFullError."""
        start = self.take(len(waveform))
        if start is None:
            raise QueueFullError(f"the clips under way take {len(self._bytes):,} bytes; try again later")
        self.waveform(start, len(waveform))[:] = waveform
        return start

    def take(self, num_samples: int) -> int | None:
        """The first gap that is large enough, which waveform() then gives; None if there is none."""
        with self._lock:
            block = self._blocks.take(max(-(-4 * num_samples // _BLOCK), 1))
        return None if block is None else _BLOCK * block

    def free(self, start: int) -> None:
        """Return a place."""
        with self._lock:
            self._blocks.give_back(start // _BLOCK)
