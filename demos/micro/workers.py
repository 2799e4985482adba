"""Jobs in worker processes that may die: espeak-ng is a C library, and a voice that it does not expect can crash it.

A job whose worker dies or takes too long is reported and left out, and the worker is replaced. Imports no torch, so
that workers may be forked.
"""

import contextlib
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

_CONTEXT = multiprocessing.get_context("fork")
LIMIT_S = 120.0  # for one job
_MOST_LOST = 0.05  # share of jobs

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, num_workers: int, limit_s: float = LIMIT_S
) -> Iterator[Result]:
    """`function` of each job, in the order of the jobs. Those that are lost are missing; many lost are an error."""
    done: dict[int, Result | None] = {}
    following = num_lost = 0
    for number, result in _run_unordered(function, jobs, num_workers, limit_s):
        done[number] = result
        num_lost += result is None
        if num_lost > 1 + _MOST_LOST * len(jobs):
            raise RuntimeError(f"{num_lost} of {len(jobs)} jobs lost their workers")
        while following in done:
            result = done.pop(following)
            following += 1
            if result is not None:
                yield result


def _run_unordered(
    function: Callable[[Any], Any], jobs: Sequence[Any], num_workers: int, limit_s: float
) -> Iterator[tuple[int, Any]]:
    """(number, result) of every job as it ends, None for the lost."""
    waiting = deque(range(len(jobs)))
    workers = [_Worker(function, jobs) for _ in range(min(num_workers, len(jobs)))]
    try:
        while True:
            for worker in workers:
                if worker.job is None and waiting:
                    worker.start(waiting.popleft())
            busy = {worker.connection: worker for worker in workers if worker.job is not None}
            if not busy:
                return
            ready = wait(list(busy), timeout=1.0)
            for connection, worker in busy.items():
                job = worker.job
                assert job is not None
                if connection in ready:
                    yield job, worker.finish()
                elif worker.seconds > limit_s:
                    worker.replace(f"took more than {limit_s:g} s")
                    yield job, None
    finally:
        for worker in workers:
            worker.stop()


@dataclass(slots=True)
class _Worker:
    """A process, and the job that it has."""

    function: Callable[[Any], Any]
    jobs: Sequence[Any]
    job: int | None = None
    process: BaseProcess = field(init=False)
    connection: Connection = field(init=False)
    _started: float = 0.0

    def __post_init__(self) -> None:
        self._fork()

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self._started

    def start(self, job: int) -> None:
        """Give it a job by number."""
        self.job, self._started = job, time.monotonic()
        with contextlib.suppress(OSError):  # it died while idle; found when its answer is read
            self.connection.send(job)

    def finish(self) -> Any:
        """The job's result, or None when it has none."""
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            self.replace(f"died with exit code {self.process.exitcode}")
            return None
        self.job = None
        return result

    def replace(self, why: str) -> None:
        """A new process instead of one that is of no more use."""
        print(f"a worker {why}: job {self.job} of {len(self.jobs)} is left out", flush=True)
        self.stop()
        self._fork()

    def stop(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.kill()
        self.process.join()

    def _fork(self) -> None:
        self.connection, its_end = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(self.function, self.jobs, its_end), daemon=True)
        self.process.start()
        its_end.close()
        self.job = None


def _work(function: Callable[[Any], Any], jobs: Sequence[Any], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(function(jobs[job]))
