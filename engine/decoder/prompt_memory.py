"""Memory for prompts that a process and its child both see: written once by the one, read in place by the other.

Through a socket the same rows cost several copies into fresh memory, and each of its pages a fault: 0.25 s of both
processes for 190 MB, on a virtual machine.
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
    """All of a PromptMemory as (bytes,) uint8, in any process that has the descriptor."""
    return torch.frombuffer(mmap.mmap(file_descriptor, 0), dtype=torch.uint8)


@dataclass(slots=True, eq=False)
class Piece:
    """A stretch of the memory, held until all prompts in it are done."""

    start: int  # bytes
    size: int  # bytes
    num_prompts: int


class PromptMemory:
    """The writing end. It takes no memory before it is written to, and the system frees it after the last process."""

    def __init__(self, num_bytes: int) -> None:
        self.file_descriptor = os.memfd_create("prompts")
        os.ftruncate(self.file_descriptor, num_bytes)
        self._rows = map_rows(self.file_descriptor)
        self._pieces: list[Piece] = []  # by start

    def write(self, prompts: Sequence[Tensor]) -> Piece | None:
        """Put prompts, each (P, hidden_size) of one dtype, one after another; None where there is no room for all."""
        size = sum(prompt.nbytes for prompt in prompts)
        start = self._find(size)
        if start is None:
            return None
        rows = self._rows[start : start + size].view(prompts[0].dtype).view(-1, prompts[0].shape[1])
        torch.cat(list(prompts), out=rows)
        piece = Piece(start, size, len(prompts))
        bisect.insort(self._pieces, piece, key=lambda each: each.start)
        return piece

    def release(self, piece: Piece) -> None:
        """One of the piece's prompts is done."""
        piece.num_prompts -= 1
        if not piece.num_prompts:
            self._pieces.remove(piece)

    def close(self) -> None:
        """Children may still read."""
        os.close(self.file_descriptor)

    def _find(self, size: int) -> int | None:
        """The lowest place that is free, so that as few pages as possible are ever touched."""
        start = 0
        for piece in self._pieces:
            if start + size <= piece.start:
                return start
            start = -(-(piece.start + piece.size) // _ALIGNMENT) * _ALIGNMENT
        return start if start + size <= len(self._rows) else None
