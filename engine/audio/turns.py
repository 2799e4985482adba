"""Fair scheduling of reads: whose input is read next when clients wait for threads, and how a read is cancelled."""

import functools
import threading
from collections import Counter, deque
from collections.abc import Generator, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from ..errors import AudioError
from ..worker_process import Child
from .waveform import Waveform

Read = TypeVar("Read")


class Stop:
    """Cancels the reading of one input, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._child: Child | None = None  # the process that reads the input

    def set(self) -> None:
        """Terminate the process that reads; a read in this process ends at its next block."""
        with self._lock:
            self._is_set = True
            if self._child is not None:
                self._child.process.terminate()

    def watch(self, child: Child | None) -> None:
        """Register the process that reads from now on, or None when it has finished. Raises AudioError once set."""
        with self._lock:
            if child is not None:
                self._require_unset()
            self._child = child

    def before_each(self, blocks: Iterator[Waveform]) -> Iterator[Waveform]:
        """Yield the same blocks. Raises AudioError once set."""
        for block in blocks:
            self._require_unset()
            yield block

    def _require_unset(self) -> None:
        if self._is_set:
            raise AudioError("nobody wants this audio any more")


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted(Generic[Read]):
    """A read that waits for its turn, and the future for its result."""

    future: Future[list[Read]]
    reading: Generator[Read, None, None]


_Begun: TypeAlias = tuple[Future[list[Read]], Future[list[Read]]]  # the caller's future, and the thread pool's


class Turns(Generic[Read]):
    """Reads inputs for many clients with a few threads, round robin.

    The inputs of one client are begun in the order in which they were added. A named client never occupies all threads
    if there are several, so that another client's read can begin at once.
    """

    def __init__(self, threads: ThreadPoolExecutor, num_threads: int) -> None:
        self._threads = threads
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[_Wanted[Read]]] = {}  # keyed by client, in the order of their turns
        self._running: Counter[Hashable] = Counter()
        self._is_closed = False

    def add(self, client: Hashable, reading: Generator[Read, None, None]) -> Future[list[Read]]:
        """Queue a read. The future returns everything that `reading` yields; cancelling it removes it from the queue.

        Raises RuntimeError after close().
        """
        wanted = _Wanted(Future[list[Read]](), reading)
        with self._lock:
            if self._is_closed:
                raise RuntimeError("these readers are closed")
            self._waiting.setdefault(client, deque()).append(wanted)
            begun = self._begin()
        _hand_on(begun)
        wanted.future.add_done_callback(lambda done: self._drop(client, wanted) if done.cancelled() else None)
        return wanted.future

    def close(self) -> None:
        """Cancel all reads that have not begun."""
        with self._lock:
            self._is_closed = True
            waiting = [wanted for queue in self._waiting.values() for wanted in queue]
            self._waiting.clear()
        for wanted in waiting:
            wanted.future.cancel()

    def _begin(self) -> list[_Begun[Read]]:
        """Begin as many reads as possible. The caller holds the lock, and calls _hand_on() after releasing it.

        The futures' callbacks may call back into this object, so they must not run while the lock is held.
        """
        begun = []
        while self._running.total() < self._num_threads:
            ready = [client for client in self._waiting if self._may_begin(client)]
            if not ready:
                break
            client = ready[0]
            queue = self._waiting.pop(client)
            wanted = queue.popleft()
            if queue:
                self._waiting[client] = queue  # moves the client behind the others
            self._running[client] += 1
            begun.append((wanted.future, self._threads.submit(self._read, client, wanted.reading)))
        return begun

    def _read(self, client: Hashable, reading: Generator[Read, None, None]) -> list[Read]:
        try:
            return list(reading)
        finally:
            with self._lock:
                self._running[client] -= 1
                self._running += Counter()  # drops clients with a count of 0
                begun = [] if self._is_closed else self._begin()
            _hand_on(begun)

    def _may_begin(self, client: Hashable) -> bool:
        most = self._num_threads if client is None else max(1, self._num_threads - 1)
        return self._running[client] < most

    def _drop(self, client: Hashable, wanted: _Wanted[Read]) -> None:
        with self._lock:
            queue = self._waiting.get(client, deque())
            if wanted in queue:
                queue.remove(wanted)
                if not queue:
                    del self._waiting[client]


def _hand_on(begun: list[_Begun[Read]]) -> None:
    """Pass the result of each finished read on to the caller's future."""
    for future, work in begun:
        work.add_done_callback(functools.partial(_settle, future))


def _settle(future: Future[list[Read]], work: Future[list[Read]]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    error = RuntimeError("these readers were closed") if work.cancelled() else work.exception()
    if error is None:
        future.set_result(work.result())
    else:
        future.set_exception(error)
