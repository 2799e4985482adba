"""Runs WordTimers in parallel: one in this process and, if there are many texts, others in worker processes.

A WordTimer takes 0.13 ms for a text of 38 words, or 0.27 ms if the text is compared with the CTC head's. That is much
for the process that keeps the GPU busy, because the GPU transcribes a text in 1 ms.
"""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from ..worker_process import Child, receive, send, start_child
from .timer import Emissions, TargetTokens, Texts, TimedText, WordTimer

WORKER = f"{__package__}.worker"
MIN_SHARE = 8  # texts; a smaller share takes less time than the round trip to another process


class WordProcesses:
    """Distributes texts over WordTimers. The emissions of a text go to the timer that has its targets."""

    def __init__(self, timer: WordTimer, num_processes: int) -> None:
        """Until `start` has been called, the timer in this process does all of the work."""
        self._timer = timer
        self._num_processes = num_processes
        self._children: list[Child] = []

    def start(self) -> None:
        """Start the worker processes, and wait for their imports. Texts may be timed in another thread meanwhile."""
        children = [start_child(WORKER) for _ in range(self._num_processes)]
        with contextlib.ExitStack() as on_failure:
            for child in children:
                on_failure.callback(child.close)
            for child in children:
                send(child.socket, self._timer)
            on_failure.pop_all()
        self._children = children

    def shares(self, num_texts: int) -> list[slice]:
        """Split the texts into one slice for each timer that takes part."""
        num_shares = max(1, min(1 + len(self._children), num_texts // MIN_SHARE))
        bounds = [num_texts * i // num_shares for i in range(num_shares + 1)]
        return [slice(first, end) for first, end in itertools.pairwise(bounds)]

    def targets(self, shares: Sequence[Texts]) -> list[TargetTokens]:
        """WordTimer.targets() of each share."""
        return self._ask(shares)

    def timed(self, shares: Sequence[Emissions]) -> list[TimedText]:
        """WordTimer.timed() of all shares."""
        return [timed for share in self._ask(shares) for timed in share]

    def restart(self) -> None:
        """Restart the worker processes, so that no answer to an earlier question is left in their sockets."""
        if self._children:
            self.close()
            self.start()

    def close(self) -> None:
        """Stop the worker processes; idempotent."""
        for child in self._children:
            child.close()
        self._children.clear()

    def _ask(self, shares: Sequence[Texts] | Sequence[Emissions]) -> list[Any]:
        own, *others = shares
        children = self._children[: len(others)]
        for child, share in zip(children, others, strict=True):
            send(child.socket, share)
        return [self._timer.answer(own), *(receive(child.socket) for child in children)]
