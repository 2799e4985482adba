"""Shared memory for prompts: the parent process writes them once, and the worker reads them in place.

A socket would copy the rows several times into fresh memory, with a page fault for each page: 0.25 s in both processes
for 190 MB, on a virtual machine.
"""

import bisect
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes


def map_rows(file_descriptor: int) -> Tensor:
    """Map a whole PromptMemory as a (num_bytes,) uint8 tensor, in any process that has the descriptor."""
    return torch.frombuffer(mmap.mmap(file_descriptor, 0), dtype=torch.uint8)


@dataclass(slots=True, eq=False)
class Piece:
    """A range of the memory, occupied until all prompts in it are done."""

    start: int  # bytes
    size: int  # bytes
    rows: Tensor  # all prompts, one below the other
    num_prompts: int  # prompts that are not done


class PromptMemory:
    """The writing side. Pages are allocated when they are written, and freed after the last process has closed them."""

    def __init__(self, num_bytes: int) -> None:
        self.file_descriptor = os.memfd_create("prompts")
        os.ftruncate(self.file_descriptor, num_bytes)
        self._rows = map_rows(self.file_descriptor)
        self._pieces: list[Piece] = []  # sorted by start

    def write(self, prompts: Sequence[Tensor]) -> Piece | None:
        """Write prompts, each (P, hidden_size) of the same dtype, contiguously; None if they do not all fit."""
        size = sum(prompt.nbytes for prompt in prompts)
        start = self._find(size)
        if start is None:
            return None
        rows = self._rows[start : start + size].view(prompts[0].dtype).view(-1, prompts[0].shape[1])
        torch.cat(list(prompts), out=rows)
        piece = Piece(start, size, rows, len(prompts))
        bisect.insort(self._pieces, piece, key=lambda each: each.start)
        return piece

    def release(self, piece: Piece) -> None:
        """Record that one of the piece's prompts is done; frees the piece after the last one."""
        piece.num_prompts -= 1
        if not piece.num_prompts:
            self._pieces.remove(piece)

    def close(self) -> None:
        """Close the descriptor. Worker processes may still read the memory."""
        os.close(self.file_descriptor)

    def _find(self, size: int) -> int | None:
        """The lowest free offset for `size` bytes, to allocate as few pages as possible; None if there is none."""
        start = 0
        for piece in self._pieces:
            if start + size <= piece.start:
                return start
            start = -(-(piece.start + piece.size) // _ALIGNMENT) * _ALIGNMENT
        return start if start + size <= len(self._rows) else None
