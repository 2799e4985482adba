"""Whose audio is read next, when several clients want more than there are threads; and how reading is ended early."""

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
    """Ends the reading of one input, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._child: Child | None = None  # that reads it

    def set(self) -> None:
        """End the process that reads, or the reading here at the next block."""
        with self._lock:
            self._is_set = True
            if self._child is not None:
                self._child.process.terminate()

    def watch(self, child: Child | None) -> None:
        """From now on, this process does the reading; None if it has done with it. Raises AudioError once set."""
        with self._lock:
            if child is not None:
                self._require_unset()
            self._child = child

    def before_each(self, blocks: Iterator[Waveform]) -> Iterator[Waveform]:
        """The same blocks. Raises AudioError once set."""
        for block in blocks:
            self._require_unset()
            yield block

    def _require_unset(self) -> None:
        if self._is_set:
            raise AudioError("nobody wants this audio any more")


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted(Generic[Read]):
    """What waits for its turn."""

    future: Future[list[Read]]
    reading: Generator[Read, None, None]


_Begun: TypeAlias = tuple[Future[list[Read]], Future[list[Read]]]  # what was promised, and the work for it


class Turns(Generic[Read]):
    """Reads for many clients with a few threads.

    What one client wants is begun in the order in which it came, and clients have their turns. A client that is named
    never has all threads if there are several, so that another need not wait until something has been read.
    """

    def __init__(self, threads: ThreadPoolExecutor, num_threads: int) -> None:
        self._threads = threads
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[_Wanted[Read]]] = {}  # by client; whose turn it is stands first
        self._running: Counter[Hashable] = Counter()
        self._is_closed = False

    def add(self, client: Hashable, reading: Generator[Read, None, None]) -> Future[list[Read]]:
        """All that is read, once its turn has come. Cancelling the future takes it out of the queue.

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
        """Cancel all that is not begun."""
        with self._lock:
            self._is_closed = True
            waiting = [wanted for queue in self._waiting.values() for wanted in queue]
            self._waiting.clear()
        for wanted in waiting:
            wanted.future.cancel()

    def _begin(self) -> list[_Begun[Read]]:
        """Begin what may be begun; called with the lock held, unlike what the results may call."""
        begun = []
        while self._running.total() < self._num_threads:
            ready = [client for client in self._waiting if self._may_begin(client)]
            if not ready:
                break
            client = ready[0]
            queue = self._waiting.pop(client)
            wanted = queue.popleft()
            if queue:
                self._waiting[client] = queue  # behind the others
            self._running[client] += 1
            begun.append((wanted.future, self._threads.submit(self._read, client, wanted.reading)))
        return begun

    def _read(self, client: Hashable, reading: Generator[Read, None, None]) -> list[Read]:
        try:
            return list(reading)
        finally:
            with self._lock:
                self._running[client] -= 1
                self._running += Counter()  # without those that have none
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
    """Give each future what its work gives."""
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
