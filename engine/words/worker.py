"""A worker process that times words for processes.py.

It receives a WordTimer, then Texts and Emissions in turn, and sends the result of WordTimer.answer for each.
"""

import contextlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are several such processes

from ..worker_process import connect, receive, send
from .timer import WordTimer


def main() -> None:
    """Answer requests until the parent process ends."""
    parent = connect()
    timer: WordTimer = receive(parent)
    while True:
        send(parent, timer.answer(receive(parent)))


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main()
