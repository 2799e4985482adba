"""The best CTC path of one long clip, in blocks of frames: time linear in its length, and working memory constant.

A search that holds every state of every frame needs frames times states: 1.4e9 cells for an hour of speech with its
12,000 tokens. This one goes through the frames twice. The first pass keeps only the scores at the start of each block.
The second pass goes from the last block to the first: it computes the block again, for the states from which the path
can have come, and follows its moves back.

In a block, the search looks at a window of WINDOW tokens around the best path so far. A text of up to WINDOW tokens is
searched whole, and the path is the one of viterbi.py. For a longer text the path is the best one whose tokens are in
the windows. It can be another one only where text and audio differ for so long that the best path up to a frame and
the best path of the whole clip are half a window apart: about 20 minutes of speech.

Windows never go back, and they go on soon enough for the rest of the text to be emitted in the rest of the frames. So
there is always a path, however badly the text fits, and its probability tells how badly.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .token_times import IntArray
from .viterbi import (
    BLANK,
    best_moves,
    best_scores,
    columns_of_states,
    jumpable,
    last_states,
    path_log_probs,
    trace_back,
)

BLOCK = 512  # frames
WINDOW = 8192  # tokens


class FrameScores(NamedTuple):
    """What a CTC head says in T frames, on the CPU."""

    emissions: Tensor  # (1, T, K) float32, see viterbi.py
    targets: Tensor  # (1, S) int64, columns of the tokens that were asked for
    best: Tensor  # (1, T) int64, the most probable of all tokens


class Path(NamedTuple):
    """The best path of B clips of T frames. Rows of padding have no meaning."""

    states: Tensor  # (B, T) int64, see viterbi.py
    log_probs: Tensor  # (B, T) float32, of what each frame emits
    blank_log_probs: Tensor  # (B, T) float32
    best: Tensor  # (B, T) int64, the most probable token of each frame, independent of the text


Score = Callable[[slice, slice], FrameScores]  # for these frames, and these tokens of the text


class _Block(NamedTuple):
    frames: slice
    tokens: slice  # the window
    start: Tensor  # (1, 2 + states of the window): scores before the first frame, as in viterbi.best_scores


def path_in_blocks(score: Score, token_ids: IntArray, num_frames: int) -> Path:
    """The best path of one clip.

    Args:
        score: computes the scores that a block needs. It is called twice for each block.
        token_ids: (S,) of the text, at least one; the clip must have enough frames for them, see viterbi.py.
        num_frames: at least 1.
    """
    blocks, row = _blocks(score, token_ids, num_frames)
    num_tokens = blocks[-1].tokens.stop - blocks[-1].tokens.start
    state = 2 * blocks[-1].tokens.start + int(last_states(row, torch.tensor([1]), torch.tensor([num_tokens])))
    parts = []
    for block in reversed(blocks):
        part, state = _block_path(score, block, state)
        parts.append(part)
    return Path(*(torch.cat(column, dim=1) for column in zip(*reversed(parts), strict=True)))


def _blocks(score: Score, token_ids: IntArray, num_frames: int) -> tuple[list[_Block], Tensor]:
    """The first pass: all blocks, and the scores after the last one, (1, 1, 2 + states)."""
    frames_left = _frames_left(token_ids)
    tokens = slice(0, min(WINDOW, len(token_ids)))
    row = torch.full((1, 3 + 2 * tokens.stop), -torch.inf)
    row[:, 2] = 0.0  # before the first frame, a path is in the blank before the first token
    # All starts have one memory. In memories of their own, they would lie between those of the blocks and fragment it.
    starts = row.new_empty(-(-num_frames // BLOCK), row.shape[1])
    blocks = []
    for first, start in zip(range(0, num_frames, BLOCK), starts[:, None], strict=True):
        frames = slice(first, min(first + BLOCK, num_frames))
        must_begin = int((frames_left > num_frames - frames.stop).sum())
        tokens, start[:] = _moved(tokens, row, must_begin, len(token_ids))
        blocks.append(_Block(frames, tokens, start))
        row = _scores(blocks[-1], score(frames, tokens))[-1]
        row = row - row.max()  # float32 is exact to 0.001 only for sums below 8192
    return blocks, row[None]


def _frames_left(token_ids: IntArray) -> IntArray:
    """(S,) the fewest frames that can emit a token and all after it."""
    frames = np.ones_like(token_ids)
    frames[:-1] += token_ids[:-1] == token_ids[1:]  # a blank lies between two equal tokens
    return frames[::-1].cumsum()[::-1]


def _moved(tokens: slice, row: Tensor, must_begin: int, num_tokens: int) -> tuple[slice, Tensor]:
    """The window around the best path so far, or as far ahead as the rest of the text needs; and its scores."""
    length = tokens.stop - tokens.start
    current = tokens.start + int(row[0, 2:].argmax()) // 2
    start = max(tokens.start, current - length // 2, must_begin - length)
    start = min(start, num_tokens - length)
    steps = 2 * (start - tokens.start)
    kept = F.pad(row[:, 2 + steps :], (2, steps), value=-torch.inf)
    return slice(start, start + length), kept


def _scores(block: _Block, scores: FrameScores) -> Tensor:
    columns = columns_of_states(scores.targets)
    return best_scores(block.start, scores.emissions, columns, jumpable(columns))


def _block_path(score: Score, block: _Block, last: int) -> tuple[Path, int]:
    """The path through a block that ends in the state `last`; and the state before the block."""
    last = min(max(last, 2 * block.tokens.start), 2 * block.tokens.stop)  # scores that are no numbers lead out of it
    block = _behind(block, last)
    scores = score(block.frames, block.tokens)
    first = 2 * block.tokens.start
    best = _scores(block, scores)
    moves = best_moves(best, jumpable(columns_of_states(scores.targets)), torch.tensor([len(best)]))
    states = trace_back(moves, torch.tensor([[last - first]]))
    log_probs = path_log_probs(scores.emissions, scores.targets, states[:, 1:])
    blank_log_probs = scores.emissions[:, :, BLANK].clone()  # a view would keep all emissions in memory
    return Path(states[:, 1:] + first, log_probs, blank_log_probs, scores.best), first + int(states[0, 0])


def _behind(block: _Block, last: int) -> _Block:
    """The block with the tokens alone from which a path gets to `last`, as it goes on by one token a frame at most."""
    tokens = slice(max(block.tokens.start, last // 2 - BLOCK - 1), min(block.tokens.stop, last // 2 + 1))
    first, stop = (2 * (token - block.tokens.start) for token in (tokens.start, tokens.stop))
    start = F.pad(block.start[:, 2 + first : 3 + stop], (2, 0), value=-torch.inf)
    return block._replace(tokens=tokens, start=start)
