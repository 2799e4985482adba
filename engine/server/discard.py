"""How the rest of a refused request is read, so that its client sees the answer."""

import asyncio
import contextlib

from starlette.types import Receive

DISCARD_BYTES = 16 << 20  # of a refused body that are read and dropped before the answer
DISCARD_S = 2.0  # longest time for that


async def discard_body(receive: Receive) -> bool:
    """Read and drop what is left of a body, within bounds; returns whether that was all of it.

    A client that is still sending when the connection closes gets a connection error and never sees the answer.
    """
    num_bytes, has_more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            while has_more and num_bytes <= DISCARD_BYTES:
                message = await receive()
                num_bytes += len(message.get("body", b""))
                has_more = message.get("more_body", False)
    return not has_more
