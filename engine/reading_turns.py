"""Whose audio is read next, when several clients want more than there are threads; and how reading is ended early."""

import functools
import threading
from collections import Counter, deque
from collections.abc import Generator, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from .child import Child
from .errors import AudioError
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


class Turns(Generic[Read]):
    """Reads for many clients with a few threads.

    What one client wants is begun in the order in which it came, and clients have their turns. A client that is named
    never has all threads if there are several, so that another need not wait until something has been read.
    """

    def __init__(self, threads: ThreadPoolExecutor, num_threads: int) -> None:
        self._threads = threads
        self._num_threads = num_threads
        # Reentrant: what ends at once is ended inside of _begin(), by the thread that begins it.
        self._lock = threading.RLock()
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
            self._begin()
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

    def _begin(self) -> None:
        """Called with the lock held."""
        while self._running.total() < self._num_threads:
            turn = [each for each in self._waiting if self._may_begin(each)][:1]  # None is a client like others
            if not turn:
                return
            (client,) = turn
            queue = self._waiting.pop(client)
            wanted = queue.popleft()
            if queue:
                self._waiting[client] = queue  # behind the others
            self._running[client] += 1
            work = self._threads.submit(list, wanted.reading)
            work.add_done_callback(functools.partial(self._end, client, wanted))

    def _may_begin(self, client: Hashable) -> bool:
        most = self._num_threads if client is None else max(1, self._num_threads - 1)
        return self._running[client] < most

    def _end(self, client: Hashable, wanted: _Wanted[Read], work: Future[list[Read]]) -> None:
        with self._lock:
            self._running[client] -= 1
            self._running += Counter()  # without those that have none
            if not self._is_closed:
                self._begin()
        if not wanted.future.set_running_or_notify_cancel():
            return
        error = RuntimeError("these readers were closed") if work.cancelled() else work.exception()
        if error is None:
            wanted.future.set_result(work.result())
        else:
            wanted.future.set_exception(error)

    def _drop(self, client: Hashable, wanted: _Wanted[Read]) -> None:
        with self._lock:
            queue = self._waiting.get(client, deque())
            if wanted in queue:
                queue.remove(wanted)
                if not queue:
                    del self._waiting[client]
