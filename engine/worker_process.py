"""Run one of our modules in a child process, and exchange objects with it over a socket.

multiprocessing is not used: a child that it spawns runs the user's script again, and one that it forks shares locks and
CUDA with its parent. A child here runs one module and has this process's import path. It ends when the parent's end of
the socket closes, however the parent ends. Ctrl-C in a terminal does not reach it, so the parent decides. A library in
the child may use multiprocessing, as vLLM does; the processes that it starts end with the child.

    child = start_child("twostage_asr.engine.audio.worker")        parent = connect()
    send(child.socket, (source, limits))                           source, limits = receive(parent)
    waveform = receive(child.socket)                               send(parent, waveform)
"""

import contextlib
import multiprocessing.connection
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .model_lock import OwnProcess

STOP_TIMEOUT_S = 5.0  # before a process that does not notice the closed socket is killed
_STOP_POLL_S = 0.01

_HEAD = struct.Struct("<QQ")  # number of buffers, size of the pickle in bytes


@dataclass(frozen=True, slots=True, eq=False)
class Child:
    """A running process and our end of its socket. A process that was forked from ours ends neither."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    parent: OwnProcess = field(default_factory=OwnProcess)

    def hang_up(self) -> None:
        """Let the process end, without waiting for it: the thread that connect() has started there notices this."""
        if not self.parent.is_here:
            return
        with contextlib.suppress(OSError):  # the child has ended
            self.socket.shutdown(socket.SHUT_RDWR)  # even while another thread waits for a message

    def close(self) -> None:
        """End the process and its descendants, whatever they are doing, and wait until it is gone; idempotent."""
        if self.socket.fileno() < 0 or not self.parent.is_here:
            return
        self.hang_up()
        self.socket.close()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        with contextlib.suppress(subprocess.TimeoutExpired):  # the child is still importing, or is suspended
            self.process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):  # its process group, descendants included, has ended
            while time.monotonic() < deadline:
                os.killpg(self.process.pid, 0)
                time.sleep(_STOP_POLL_S)
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def hold_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed, as it is for some services.

    Otherwise, the next file would get its number, and a child, which has streams of its own, could not inherit it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def start_child(module: str, *, pass_fds: Sequence[int] = (), environment: Mapping[str, str] | None = None) -> Child:
    """Run `module` as a program that calls connect(). Its output goes to stderr. It inherits `pass_fds`, all above 2.

    `environment` is added to this process's.
    """
    # The child ends by a signal, so multiprocessing's resource tracker warns when it removes leaked shared memory.
    warnings = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"]))
    output = subprocess.DEVNULL if sys.__stderr__ is None else 2  # closed at the start, 2 may be a file of the user's
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno(), *pass_fds],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": warnings}
            | dict(environment or {}),
            process_group=0,  # a group of its own, which the terminal's Ctrl-C does not interrupt
        )
    return Child(process, ours)


def connect() -> socket.socket:
    """The child's end of the socket; called once, in the child. The child ends when the parent's end closes."""
    parent = socket.socket(fileno=int(sys.argv[1]))
    os.register_at_fork(after_in_child=parent.close)  # else a forked child keeps the socket open after this one ends
    threading.Thread(target=_end_with, args=(parent.fileno(),), daemon=True).start()
    return parent


def _end_with(file_descriptor: int) -> None:
    poll = select.poll()
    poll.register(file_descriptor, 0)  # hang-ups are always reported
    poll.poll()
    _end()


def end_with_any(tell: Callable[[str], None]) -> None:
    """If a process that multiprocessing has started here ends, `tell` which one, and end this process and the others.

    Otherwise, code that waits for an answer of that process would wait for ever.
    """
    started = {process.sentinel: process for process in multiprocessing.active_children()}
    if not started:
        return

    def watch() -> None:
        ended = started[multiprocessing.connection.wait(started)[0]]  # type: ignore[index]
        ended.join()
        tell(f"{ended.name} (process {ended.pid}) has ended, exit status {ended.exitcode}")
        _end()

    threading.Thread(target=watch, daemon=True).start()


def _end() -> None:
    """Kill the processes that multiprocessing has started here, and this process.

    The whole group is not killed, because multiprocessing's resource tracker must first remove the shared memory that
    those processes leave behind. It ends by itself.
    """
    for process in multiprocessing.active_children():
        process.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def send(to: socket.socket, message: object) -> None:
    """Send any object that can be pickled. NumPy arrays in it are sent without a copy. Raises OSError."""
    send_packed(to, pack(message))


def pack(message: object) -> list[bytes | memoryview]:
    """The pieces of a message that send_packed() sends."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    lengths = struct.pack(f"<{len(views)}Q", *map(len, views))
    return [_HEAD.pack(len(views), len(pickled)) + lengths + pickled, *views]


def send_packed(to: socket.socket, pieces: Iterable[bytes | memoryview]) -> None:
    """Raises OSError."""
    for piece in pieces:
        to.sendall(piece)


def receive(source: socket.socket) -> Any:
    """Wait for the next object. Raises EOFError or OSError if the other process has ended."""
    num_buffers, num_pickled = _HEAD.unpack(_read(source, _HEAD.size))
    body = _read(source, 8 * num_buffers + num_pickled)
    lengths = struct.unpack_from(f"<{num_buffers}Q", body)
    return pickle.loads(body[8 * num_buffers :], buffers=[_read(source, length) for length in lengths])


def _read(source: socket.socket, num_bytes: int) -> memoryview:
    """Read exactly `num_bytes`, in one system call if no signal comes, because each call may wait for the GIL."""
    data = left = np.empty(num_bytes, np.uint8).data
    while left:
        num_read = source.recv_into(left, len(left), socket.MSG_WAITALL)
        if not num_read:
            raise EOFError("the other process has ended")
        left = left[num_read:]
    return data


def wait_readable(file_descriptors: Iterable[int], wait_s: float | None) -> set[int]:
    """The file descriptors that are readable or at their end; waits at most `wait_s` for the first one, if not None.

    It uses poll(), because select() refuses descriptors above 1,023, which a server's sockets reach.
    """
    waiting = select.poll()
    for number in file_descriptors:
        waiting.register(number, select.POLLIN)
    return {number for number, _ in waiting.poll(None if wait_s is None else 1000 * wait_s)}
