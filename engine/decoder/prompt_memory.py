"""Shared memory for prompts: the parent process writes them once, and the worker reads them in place.

A socket would copy the rows several times into fresh memory, with a page fault for each page: 0.25 s in both processes
for 190 MB, on a virtual machine.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import Rows

_BLOCK = 64  # bytes: the alignment of prompts


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
        self._blocks = Rows(num_bytes // _BLOCK)

    def write(self, prompts: Sequence[Tensor]) -> Piece | None:
        """Write prompts, each (P, hidden_size) of the same dtype, contiguously; None if they do not all fit."""
        size = sum(prompt.nbytes for prompt in prompts)
        block = self._blocks.take(-(-size // _BLOCK))
        if block is None:
            return None
        start = _BLOCK * block
        rows = self._rows[start : start + size].view(prompts[0].dtype).view(-1, prompts[0].shape[1])
        torch.cat(list(prompts), out=rows)
        return Piece(start, size, rows, len(prompts))

    def release(self, piece: Piece) -> None:
        """Record that one of the piece's prompts is done; frees the piece after the last one."""
        piece.num_prompts -= 1
        if not piece.num_prompts:
            self._blocks.give_back(piece.start // _BLOCK)

    def close(self) -> None:
        """Close the descriptor. Worker processes may still read the memory."""
        os.close(self.file_descriptor)
