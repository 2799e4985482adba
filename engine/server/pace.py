"""One step of the requests' work in each turn of the event loop.

A loop runs all that is ready before it looks at its sockets again. When many answers of the engine come at once, or
many uploads, whatever a client asks meanwhile would wait for all of them: a step takes about a millisecond. So each
step of a request that has a body waits for a turn of the loop of its own. Between two of them the loop reads its
sockets and runs everything else, such as /health, which waits for one step at most each time that it goes through the
loop.

    await pace.turn()           # before each step: the beginning of a request, a part of its body, its transcript
"""

import asyncio
from collections import deque


class Pace:
    """Gives out the turns of one event loop, in the order in which they are asked for."""

    def __init__(self) -> None:
        self._is_taken = False  # the turn of the loop that runs now, or the next one
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Return at once if nobody has taken this turn of the loop, else in a later one that nobody else has."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._next)
            return
        waiting: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiting)
        await waiting

    def _next(self) -> None:
        """Give the next turn of the loop, in which this is called again, to the first that still waits."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():  # it was cancelled
                first.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False
