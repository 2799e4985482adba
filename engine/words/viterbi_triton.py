"""`viterbi.best_paths` as one kernel for NVIDIA GPUs: one program per clip, parallel over states, looping over frames.

The search in tensor operations launches six kernels per frame. On an H200, the CPU needs longer to launch them than the
GPU needs for the rest of alignment.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_STATES = 4096  # per program: texts of up to 2,047 tokens
_LEAST_BLOCK = 32  # one warp; fewer states are not faster


def triton_paths(
    emissions: Tensor, columns: Tensor, may_jump: Tensor, frame_lens: Tensor, target_lens: Tensor
) -> Tensor:
    """States (B, T) int64 of the best paths, 0 in the padding. Ties prefer stay, then step, then jump.

    Args:
        emissions: (B, T, K) float32, contiguous.
        columns: (B, N) int64, of each state; N at most MAX_STATES.
        may_jump: (B, N) bool, whether a state may be reached from two states before it.
        frame_lens, target_lens: (B,) int64.
    """
    num_clips, num_frames, num_columns = emissions.shape
    num_states = columns.shape[1]
    block = max(triton.next_power_of_2(num_states), _LEAST_BLOCK)
    scores = emissions.new_full((num_clips, 2, block + 2), -torch.inf)
    moves = torch.empty(num_clips, num_frames, num_states, dtype=torch.uint8, device=emissions.device)
    states = torch.zeros(num_clips, num_frames, dtype=torch.int64, device=emissions.device)
    _search[(num_clips,)](
        emissions, columns, may_jump, frame_lens, target_lens, scores, moves, states,
        num_frames, num_columns, num_states, block, num_warps=min(max(block // 128, 1), 8),
    )  # fmt: skip
    return states


# Without do_not_specialize, triton would compile again for each of these numbers that is 1 or a multiple of 16.
@triton.jit(do_not_specialize=["num_frames", "num_columns", "num_states"])  # type: ignore[untyped-decorator]
def _search(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel has no objects
    emissions, columns, may_jump, frame_lens, target_lens, scores, moves, states,
    num_frames, num_columns, num_states, block: tl.constexpr,
):  # fmt: skip
    clip = tl.program_id(0).to(tl.int64)
    length = tl.load(frame_lens + clip)
    state = tl.arange(0, block)
    exists = state < num_states
    column = tl.load(columns + clip * num_states + state, mask=exists, other=0)
    jumps = tl.load(may_jump + clip * num_states + state, mask=exists, other=0) != 0
    emitted = emissions + clip * num_frames * num_columns + column
    # There are two rows of scores, for this frame and the last one. Two entries of -inf before each row stand for the
    # states before the first, from which no step or jump comes.
    row = scores + clip * 2 * (block + 2) + 2
    best = tl.load(emitted, mask=exists & (state < 2), other=float("-inf"))
    tl.store(row + state, best)
    tl.debug_barrier()
    for frame in range(1, length):
        before = row + ((frame - 1) % 2) * (block + 2) + state
        stepped = tl.load(before - 1)
        jumped = tl.where(jumps, tl.load(before - 2), float("-inf"))
        top = tl.maximum(best, stepped)
        move = tl.where(jumped > top, 2, (stepped > best).to(tl.int32))
        best = tl.maximum(top, jumped) + tl.load(emitted + frame * num_columns, mask=exists, other=float("-inf"))
        tl.store(moves + (clip * num_frames + frame) * num_states + state, move.to(tl.uint8), mask=exists)
        tl.store(row + (frame % 2) * (block + 2) + state, best)
        tl.debug_barrier()
    blank = 2 * tl.load(target_lens + clip)
    last = row + ((length - 1) % 2) * (block + 2) + blank
    at = blank - ((blank > 0) & (tl.load(last - 1) >= tl.load(last))).to(tl.int64)
    for passed in range(0, length):
        frame = length - 1 - passed
        tl.store(states + clip * num_frames + frame, at)
        at -= tl.load(moves + (clip * num_frames + frame) * num_states + at, mask=frame > 0, other=0).to(tl.int64)
