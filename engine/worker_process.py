"""A Python process of our own, and the socket over which it and this process send each other objects.

multiprocessing is not used: a child that it spawns first runs the user's script again, and one that it forks shares
locks and CUDA with us. Here a child runs one module of ours, finds what this process would import, and lives no longer
than the other end of its socket, however this process ends. Ctrl-C in a terminal does not reach it: the parent decides.
A library that runs in the child may use multiprocessing, as vLLM does; what that starts ends with the child.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STOP_TIMEOUT_S = 5.0  # before a process is killed that does not notice the end of its socket
_STOP_POLL_S = 0.01

_HEAD = struct.Struct("<QQ")  # number of buffers, bytes of the pickle


@dataclass(frozen=True, slots=True, eq=False)
class Child:
    """A running process and our end of its socket."""

    process: subprocess.Popen[bytes]
    socket: socket.socket

    def close(self) -> None:
        """End the process and what it has started, whatever they are doing, and wait until it is gone; idempotent."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()  # connect() sees to the rest
        deadline = time.monotonic() + STOP_TIMEOUT_S
        with contextlib.suppress(subprocess.TimeoutExpired):  # it is still importing modules, or has been stopped
            self.process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):  # nothing is left of its group, which what it started belongs to
            while time.monotonic() < deadline:
                os.killpg(self.process.pid, 0)
                time.sleep(_STOP_POLL_S)
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_child(module: str, *, pass_fds: Sequence[int] = ()) -> Child:
    """Run `module` as a program that calls connect(). What it prints goes to stderr. It has `pass_fds` open as well."""
    # It ends by a signal, of which the helper of multiprocessing's that then removes shared memory would warn.
    warnings = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"]))
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno(), *pass_fds],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": warnings},
            process_group=0,  # not the terminal's, whose Ctrl-C would interrupt it
        )
    return Child(process, ours)


def connect() -> socket.socket:
    """Called once in a child: its end of the socket. When the parent's closes, it ends, and with it what it started."""
    parent = socket.socket(fileno=int(sys.argv[1]))
    os.register_at_fork(after_in_child=parent.close)  # or the parent would not see that this process has ended
    threading.Thread(target=_end_with, args=(parent.fileno(),), daemon=True).start()
    return parent


def _end_with(file_descriptor: int) -> None:
    poll = select.poll()
    poll.register(file_descriptor, 0)  # hang-ups are always reported
    poll.poll()
    _end()


def end_with_any(tell: Callable[[str], None]) -> None:
    """Where multiprocessing has started processes: once one of them ends, `tell` which, and end with the others.

    What waits for their answers may do so for ever.
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
    """Kill what multiprocessing has started for this process, and this process.

    Its group is not killed at once: a helper of multiprocessing's, which ends by itself, first removes the shared
    memory that those processes leave behind.
    """
    for process in multiprocessing.active_children():
        process.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def send(to: socket.socket, message: object) -> None:
    """Send any object that can be pickled; NumPy arrays in it are not copied on the way. Raises OSError."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    lengths = struct.pack(f"<{len(views)}Q", *map(len, views))
    to.sendall(_HEAD.pack(len(views), len(pickled)) + lengths + pickled)
    for view in views:
        to.sendall(view)


def receive(source: socket.socket) -> Any:
    """Wait for the next object. Raises EOFError or OSError when the other process has ended."""
    num_buffers, num_pickled = _HEAD.unpack(_read(source, _HEAD.size))
    body = _read(source, 8 * num_buffers + num_pickled)
    lengths = struct.unpack_from(f"<{num_buffers}Q", body)
    return pickle.loads(body[8 * num_buffers :], buffers=[_read(source, length) for length in lengths])


def _read(source: socket.socket, num_bytes: int) -> memoryview:
    """In one system call if no signal comes: each call may have to wait for the interpreter's lock."""
    data = left = np.empty(num_bytes, np.uint8).data
    while left:
        num_read = source.recv_into(left, len(left), socket.MSG_WAITALL)
        if not num_read:
            raise EOFError("the other process has ended")
        left = left[num_read:]
    return data
