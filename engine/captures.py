"""The lock of all captures of CUDA graphs in this process.

While a graph is captured, no other thread may wait for the whole GPU, as the beginning of another capture and the
compiler do: CUDA would refuse it, and the capture would fail. Whoever does not get the lock goes on without a graph. A
thread that has it, as that of preparation.py, may capture.
"""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from .isolation import caught

CAPTURES = threading.RLock()

logger = logging.getLogger(__name__)
Graph = TypeVar("Graph")


def captured_alone(what: str, capture: Callable[[], Graph]) -> Graph | Exception | None:
    """What `capture` returns or raises; None while another thread captures or compiles. A failure is logged.

    `what` then goes on without CUDA graphs, so that the caller must not try again.
    """
    if not CAPTURES.acquire(blocking=False):
        return None
    try:
        captured = caught(capture)
    finally:
        CAPTURES.release()
    if isinstance(captured, Exception):
        logger.warning("%s without CUDA graphs, because a capture failed: %r", what, captured)
    return captured
