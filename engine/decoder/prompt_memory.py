"""Shared memory for prompts: the parent process writes them once, and the worker reads them in place."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arena import Arena


@dataclass(slots=True, eq=False)
class Piece:
    """A range of the memory, occupied until all prompts in it are done."""

    start: int  # bytes
    size: int  # bytes
    rows: Tensor  # all prompts, one below the other
    num_prompts: int  # prompts that are not done


class PromptMemory:
    """The writing side; the worker maps the same file as an Arena."""

    def __init__(self, num_bytes: int) -> None:
        self.file_descriptor = Arena.create(num_bytes)
        self.arena = Arena(self.file_descriptor)

    def write(self, prompts: Sequence[Tensor]) -> Piece | None:
        """Write prompts, each (P, hidden_size) of the same dtype, contiguously; None if they do not all fit."""
        size = sum(prompt.nbytes for prompt in prompts)
        start = self.arena.take_bytes(size)
        if start is None:
            return None
        data = torch.from_numpy(self.arena.bytes[start : start + size])
        rows = data.view(prompts[0].dtype).view(-1, prompts[0].shape[1])
        torch.cat(list(prompts), out=rows)
        return Piece(start, size, rows, len(prompts))

    def release(self, piece: Piece) -> None:
        """Record that one of the piece's prompts is done; frees the piece after the last one."""
        piece.num_prompts -= 1
        if not piece.num_prompts:
            self.arena.free(piece.start)

    def close(self) -> None:
        """Close the descriptor. Worker processes may still read the memory."""
        os.close(self.file_descriptor)
