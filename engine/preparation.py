"""What makes a loaded model faster, done in a thread of its own while the model already works without it.

On an NVIDIA GPU these are the processes that time words, and compiled layers and kernels. They take half a minute, or
seconds with what earlier processes have left in the caches of torch and Triton. The first text needs none of them.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .captures import CAPTURES
from .isolation import caught

# A program that transcribes a few clips has ended by then, and need not wait for a compiler that it cannot interrupt.
BEGIN_AFTER_S = 2.0
SAY_AFTER_S = 1.0  # for a compiler that the end waits for
# Compilers are Python, and hold its lock for as long as they may. A decoder waits for the GPU after each step, and then
# for that lock: with Python's own interval of 5 ms, 18 steps of 1 ms took 111 to 270 ms beside a busy thread, and with
# this one 27 to 67 ms (two cores, 2026-11-29).
SWITCH_INTERVAL_S = 0.0005

logger = logging.getLogger(__name__)


class Preparation:
    """Runs steps one after the other, once `begin` is called. A step that fails is done without."""

    def __init__(self, steps: Sequence[Callable[[], None]] = ()) -> None:
        self._steps = steps
        self._is_wanted, self._is_closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="preparation", daemon=True)

    def begin(self) -> None:
        """Begin within BEGIN_AFTER_S."""
        if self._steps:
            self._thread.start()

    def wait(self) -> None:
        """Begin at once, and wait for the end."""
        self._is_wanted.set()
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Leave out the steps that have not begun, and wait for the one that has; idempotent."""
        self._is_closed.set()
        self._is_wanted.set()
        if self._thread.ident is None:
            return
        self._thread.join(SAY_AFTER_S)
        if self._thread.is_alive():
            logger.info("the end waits for a compiler, whose work later processes find in their cache")
            self._thread.join()

    def _run(self) -> None:
        self._is_wanted.wait(BEGIN_AFTER_S)
        for step in self._steps:
            if self._is_closed.is_set():
                return
            with CAPTURES, _frequent_switches():
                failure = caught(step)
            if isinstance(failure, Exception):
                logger.warning("a model goes on without what would make it faster: %r", failure)
                return
        logger.debug("loading: all that makes it faster is there")


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let Python's threads take turns more often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_INTERVAL_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
