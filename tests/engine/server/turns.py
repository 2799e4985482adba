"""How long the event loop of a server is at work before it looks at other clients again."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.engine.server.conftest import Running

EVERY_S = 0.005  # between two looks at the clock


@contextmanager
def short_turns(server: Running, most_s: float) -> Iterator[None]:
    """Fails if the loop was at work for longer without a break.

    That is processor time of the loop's thread. How long others wait for it would depend on what else the machine does.
    """
    loop = server.server.servers[0].get_loop()
    is_over, is_last = threading.Event(), threading.Event()
    worked = list[float]()

    def look() -> None:
        worked.append(time.thread_time())
        if is_over.is_set():
            is_last.set()
        else:
            loop.call_later(EVERY_S, look)

    loop.call_soon_threadsafe(look)
    try:
        yield
    finally:
        is_over.set()
        assert is_last.wait(60)
    longest_s = max(after - before for before, after in itertools.pairwise(worked))
    assert longest_s < most_s, f"the event loop was at work for {longest_s:.2f} s without a break"
