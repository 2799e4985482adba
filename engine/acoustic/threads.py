"""How many threads PyTorch takes on the CPU, while a GPU does the work.

OpenMP's threads wait for each other by spinning. Where two processes have one per core, each steals the other's cores
while it waits: the sum over one prompt took 14 ms in place of 0.03 ms (two processes, two cores, 2026-11-20). What the
CPU has to do for a GPU is little, so it is done by one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


@contextmanager
def one_thread(active: bool) -> Iterator[None]:
    """PyTorch works with one thread inside, if `active`, and with as many as before afterwards."""
    before = torch.get_num_threads()
    if active:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if active:
            torch.set_num_threads(before)


def each_in_one_thread(items: Iterator[Item], active: bool) -> Iterator[Item]:
    """The same items, each made as inside one_thread(); whoever takes them works with as many threads as before."""
    while True:
        with one_thread(active=active):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
