"""CTC forced alignment: the state of its text that each frame of a clip is in, for B padded clips at once.

In:  emissions (B, T, K) float32, log-probabilities of K columns: column 0 is blank, the others are the tokens that
     occur as targets; targets (B, S) int64, column indices in 1..K-1; lengths of both. Padding is any valid index.
Out: states (B, T) int64. A clip with S targets has the states blank, target 0, blank, ..., target S - 1, blank: state
     2s + 1 emits target s, and even states emit blank. States never decrease from frame to frame. Padding frames get 0.

The model is that of Graves et al., "Connectionist temporal classification" (ICML 2006). From one frame to the next, a
path stays in its state, steps to the next one, or jumps over a blank between two different targets. A clip therefore
needs a frame for each target and one more between two equal neighbours; callers check this.

There are three searches, which return the same path if the best path is unique. torchaudio's runs clip by clip in C++
and serves CPUs. The other two process all clips at once: a kernel for NVIDIA GPUs (viterbi_triton.py), and six tensor
operations per frame for other devices. demos/benchmark_alignment.py measures their speed. If paths tie exactly, which
is rare in float32, torchaudio 2.11 may return a worse path (github.com/pytorch/audio/issues/4221); the others do not.
All of them hold every state of every frame, so long clips are searched in blocks of frames (viterbi_blocks.py).
"""

import torch
from torch import Tensor

BLANK = 0  # its column in `emissions`


def best_paths(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """States (B, T) of the best paths, by the search that is fastest on the device of `emissions`."""
    search = _FASTEST.get(emissions.device.type, batched_paths)
    return search(emissions, targets, frame_lens, target_lens)


def path_log_probs(emissions: Tensor, targets: Tensor, states: Tensor) -> Tensor:
    """(B, T) float32, the log-probability that each frame emits its state's column."""
    columns = columns_of_states(targets).gather(1, states)
    return emissions.gather(2, columns[:, :, None])[:, :, 0]


def torchaudio_paths(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """`best_paths` with one call of torchaudio.functional.forced_align per clip."""
    from torchaudio.functional import forced_align  # which no GPU needs

    states = torch.zeros(emissions.shape[:2], dtype=torch.int64, device=emissions.device)
    for b, (num_frames, num_targets) in enumerate(zip(frame_lens.tolist(), target_lens.tolist(), strict=True)):
        if num_targets:
            clip = emissions[b : b + 1, :num_frames].contiguous()
            path, _ = forced_align(clip, targets[b : b + 1, :num_targets], blank=BLANK)
            states[b, :num_frames] = _states_of_columns(path[0])
    return states


def batched_paths(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """`best_paths` for all clips at once, with one loop over frames. Ties prefer stay, then step, then jump."""
    frame_lens, target_lens = frame_lens.to(emissions.device), target_lens.to(emissions.device)
    columns = columns_of_states(targets)
    may_jump = jumpable(columns)
    first = emissions.new_full((len(columns), 2 + columns.shape[1]), -torch.inf)
    first[:, 2:4] = emissions[:, 0].gather(1, columns[:, :2])
    best = best_scores(first, emissions[:, 1:], columns, may_jump)
    moves = best_moves(best, may_jump, frame_lens)
    states = trace_back(moves, last_states(best, frame_lens, target_lens))
    in_clip = torch.arange(states.shape[1], device=states.device) < frame_lens[:, None]
    return states.masked_fill_(~in_clip, 0)


def kernel_paths(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """`best_paths` with one kernel on an NVIDIA GPU; texts of more than MAX_STATES states use `batched_paths`."""
    from .viterbi_triton import MAX_STATES, triton_paths

    columns = columns_of_states(targets)
    if columns.shape[1] > MAX_STATES:
        return batched_paths(emissions, targets, frame_lens, target_lens)
    frame_lens, target_lens = frame_lens.to(emissions.device), target_lens.to(emissions.device)
    return triton_paths(emissions.contiguous(), columns, jumpable(columns), frame_lens, target_lens)


_FASTEST = {"cpu": torchaudio_paths, "cuda": kernel_paths}


def jumpable(columns: Tensor) -> Tensor:
    """(B, N) columns of states -> (B, N) bool, whether a state may be reached by a jump over the blank before it."""
    may_jump = torch.zeros_like(columns, dtype=torch.bool)
    may_jump[:, 3::2] = columns[:, 3::2] != columns[:, 1:-2:2]
    return may_jump


def columns_of_states(targets: Tensor) -> Tensor:
    """(B, S) targets -> (B, 2S + 1) columns of the states: blank, target 0, blank, ..., target S - 1, blank."""
    columns = targets.new_full((targets.shape[0], 2 * targets.shape[1] + 1), BLANK)
    columns[:, 1::2] = targets
    return columns


def _states_of_columns(path: Tensor) -> Tensor:
    """torchaudio's path (T,) of columns -> (T,) states: a target begins where a column follows a different one."""
    before = torch.cat([path.new_full((1,), BLANK), path[:-1]])
    emits_target = path != BLANK
    targets_begun = (emits_target & (path != before)).cumsum(0)
    return 2 * targets_begun - emits_target.long()


def best_scores(first: Tensor, emissions: Tensor, columns: Tensor, may_jump: Tensor) -> Tensor:
    """Log-probability of the best path into each state at each frame, (1 + T, B, 2 + states) float32.

    The first two columns are -inf and stand for states before the first, so that a step and a jump are shifted views.

    Args:
        first: (B, 2 + states), the scores before the T frames of `emissions`; they become the first row.
    """
    emitted = emissions.gather(2, columns[:, None, :].expand(-1, emissions.shape[1], -1)).transpose(0, 1).contiguous()
    jump_cost = torch.zeros_like(first[:, 2:]).masked_fill_(~may_jump, -torch.inf)
    best = emissions.new_full((1 + len(emitted), *first.shape), -torch.inf)
    best[0] = first
    into, jumped = torch.empty_like(jump_cost), torch.empty_like(jump_cost)
    for t, of_frame in enumerate(emitted):
        before = best[t]
        torch.maximum(before[:, 2:], before[:, 1:-1], out=into)
        torch.add(before[:, :-2], jump_cost, out=jumped)
        torch.maximum(into, jumped, out=into)
        torch.add(into, of_frame, out=best[t + 1, :, 2:])
    return best


def best_moves(best: Tensor, may_jump: Tensor, frame_lens: Tensor) -> Tensor:
    """The best move into each state, (T - 1, B, states) uint8: 0 stay, 1 step, 2 jump; 0 in the padding."""
    stay, step, jump = best[:-1, :, 2:], best[:-1, :, 1:-1], best[:-1, :, :-2]
    moves = (step > stay).to(torch.uint8)
    moves.masked_fill_((jump > torch.maximum(stay, step)) & may_jump, 2)
    frames = torch.arange(1, best.shape[0], device=best.device)
    return moves.masked_fill_((frames[:, None] >= frame_lens)[:, :, None], 0)


def last_states(best: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """(B, 1) state at each clip's last frame: the better of the last target and the blank after it."""
    blank = 2 * target_lens[:, None]
    last = best[frame_lens - 1, torch.arange(len(frame_lens), device=best.device)]
    target_is_better = last.gather(1, blank + 1) >= last.gather(1, blank + 2)
    return blank - (target_is_better & (blank > 0)).long()


def trace_back(moves: Tensor, last: Tensor) -> Tensor:
    """Follow the moves back from each clip's last state; returns the state of each frame, (B, T)."""
    states = [last]
    for moved in moves.flip(0):
        states.append(states[-1] - moved.gather(1, states[-1]))
    return torch.cat(states[::-1], dim=1)
