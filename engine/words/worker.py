"""A process that times words for processes.py: a WordTimer first, then what its methods ask for and answer."""

import contextlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are several such processes

from ..worker_process import connect, receive, send
from .timer import WordTimer


def main() -> None:
    """Answer until the parent has gone."""
    parent = connect()
    timer: WordTimer = receive(parent)
    while True:
        send(parent, timer.answer(receive(parent)))


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main()
