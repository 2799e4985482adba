"""How CUDA graphs are captured: one at a time in this process, and so that a failure harms nothing else.

While a graph is captured, no other thread may wait for the whole GPU, as the beginning of another capture and the
compiler do: CUDA would refuse it, and the capture would fail. Whoever does not get the lock goes on without a graph. A
thread that has it, as that of preparation.py, may capture.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

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


@contextlib.contextmanager
def capturing(
    graph: torch.cuda.CUDAGraph,
    *,
    pool: "torch.cuda._POOL_HANDLE",
    draws: bool,
    stream: torch.cuda.Stream | None = None,
) -> Iterator[None]:
    """Capture what this thread does on the current device into `graph`, in a context that also ends well if it fails.

    A graph has a random generator of its own. PyTorch 2.11 marks the generator of a graph while it is captured: nothing
    else may draw from it then, nor may a graph that draws from it be replayed. A capture that fails leaves the mark
    there for good, because `CUDAGraph::capture_end` raises before it removes it, and before it tells the allocator that
    the capture is over. The device's generator must not be marked, and so another is in its place when the capture
    begins.

    Args:
        graph: one that nothing has been captured into.
        pool: of `torch.cuda.graph_pool_handle`; the graph's memory.
        draws: whether the work draws random numbers. If so, no other thread can draw any on this device meanwhile.
        stream: the stream of the capture; PyTorch's own if None.
    """
    device = torch.cuda.current_device()
    generator = torch.cuda.default_generators[device]
    shared, own = generator.graphsafe_get_state(), generator.clone_state()
    own.seed()
    # In the default mode, an allocation by any other thread would fail and invalidate the capture.
    capture = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    with torch.cuda.stream(torch.cuda.current_stream()):  # this thread's stream, which a failure would not restore
        generator.graphsafe_set_state(own)
        try:
            with capture:
                if not draws:
                    generator.graphsafe_set_state(shared)
                yield
        finally:
            generator.graphsafe_set_state(shared)
            with contextlib.suppress(RuntimeError):  # it has been told, unless the capture failed in PyTorch 2.11
                torch._C._cuda_endAllocateToPool(device, pool)
