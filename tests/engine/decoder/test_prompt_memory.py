"""Prompts in shared memory: what is written is what is read, as long as it is needed, and no longer."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from twostage_asr.engine.arena import Arena
from twostage_asr.engine.decoder.prompt_memory import Piece, PromptMemory

WIDTH = 8
ROW_BYTES = 2 * WIDTH


def prompt(num_positions: int, value: float) -> Tensor:
    return torch.full((num_positions, WIDTH), value, dtype=torch.bfloat16)


def read(memory: PromptMemory, piece: Piece) -> Tensor:
    data = Arena(memory.file_descriptor).bytes[piece.start : piece.start + piece.size]
    return torch.from_numpy(data).view(torch.bfloat16)


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=60))
def test_pieces_keep_what_was_written_until_they_are_released(steps: list[tuple[int, bool]]) -> None:
    memory = PromptMemory(200 * ROW_BYTES)
    held: list[tuple[Piece, float]] = []
    for value, (num_positions, is_released) in enumerate(steps):
        piece = memory.write([prompt(num_positions, value)])
        if piece is not None:
            held.append((piece, value))
        if held and is_released:
            memory.release(held.pop(0)[0])
        assert all((read(memory, piece) == value).all() for piece, value in held)
    for piece, _ in held:
        memory.release(piece)
    assert memory.write([prompt(200, 1.0)]) is not None
    memory.close()


def test_a_piece_is_held_until_its_last_prompt_is_done() -> None:
    memory = PromptMemory(4 * ROW_BYTES)
    piece = memory.write([prompt(1, 1.0), prompt(3, 2.0)])
    assert piece is not None
    assert read(memory, piece).view(4, WIDTH)[:, 0].tolist() == [1.0, 2.0, 2.0, 2.0]
    memory.release(piece)
    assert memory.write([prompt(1, 3.0)]) is None
    memory.release(piece)
    assert memory.write([prompt(4, 3.0)]) is not None
    memory.close()
