"""CTC forced alignment: in which state of its text each frame of a clip is, for B padded clips at once.

In:  emissions (B, T, K) float32, log-probabilities of K columns only: column 0 is blank, the others are what a target
     may be; targets (B, S) int64, indices into 1..K-1; lengths of both. Padding holds any valid index.
Out: states (B, T) int64. The states of a clip with S targets are blank, target 1, blank, ..., target S, blank: state
     2s + 1 emits target s, even states emit blank. They never fall from one frame to the next; padding frames get 0.

The model is that of Graves et al., "Connectionist temporal classification" (ICML 2006): a frame stays in its state,
steps to the next one, or jumps over a blank that lies between two different targets. A clip can therefore be aligned
when it has a frame for each target and one more between two that are equal, which callers make sure of.

Three searches find the same path wherever the best one is unique. torchaudio's runs clip by clip in C++, for CPUs; ours
run all clips at once, in one kernel for NVIDIA GPUs (viterbi_triton.py), in six tensor operations per frame for other
devices. demos/benchmark_alignment.py prints which one is faster where. Where paths tie exactly, as float32
log-probabilities hardly ever do, torchaudio 2.11 may take a worse one (github.com/pytorch/audio/issues/4221); ours do
not.
"""

import torch
from torch import Tensor
from torchaudio.functional import forced_align

BLANK = 0  # its column in `emissions`


def best_paths(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """States (B, T) of the best paths, by whichever search is fastest where `emissions` are."""
    search = _FASTEST.get(emissions.device.type, batched_paths)
    return search(emissions, targets, frame_lens, target_lens)


def path_log_probs(emissions: Tensor, targets: Tensor, states: Tensor) -> Tensor:
    """(B, T) float32: log-probability of what each frame emits in its state."""
    columns = _columns_of_states(targets).gather(1, states)
    return emissions.gather(2, columns[:, :, None])[:, :, 0]


def torchaudio_paths(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """`best_paths` with one call of torchaudio.functional.forced_align per clip."""
    states = torch.zeros(emissions.shape[:2], dtype=torch.int64, device=emissions.device)
    for b, (num_frames, num_targets) in enumerate(zip(frame_lens.tolist(), target_lens.tolist(), strict=True)):
        if num_targets:
            clip = emissions[b : b + 1, :num_frames].contiguous()
            path, _ = forced_align(clip, targets[b : b + 1, :num_targets], blank=BLANK)
            states[b, :num_frames] = _states_of_columns(path[0])
    return states


def batched_paths(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """`best_paths` of all clips at once: a loop over frames only. Of equally good ways the shortest move wins."""
    frame_lens, target_lens = frame_lens.to(emissions.device), target_lens.to(emissions.device)
    columns = _columns_of_states(targets)
    may_jump = _may_jump(columns)
    best = _best_scores(emissions, columns, may_jump)
    moves = _best_moves(best, may_jump, frame_lens)
    states = _trace_back(moves, _last_states(best, frame_lens, target_lens))
    in_clip = torch.arange(states.shape[1], device=states.device) < frame_lens[:, None]
    return states.masked_fill_(~in_clip, 0)


def kernel_paths(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """`best_paths` in one kernel of an NVIDIA GPU."""
    from .viterbi_triton import MAX_STATES, triton_paths

    columns = _columns_of_states(targets)
    if columns.shape[1] > MAX_STATES:
        return batched_paths(emissions, targets, frame_lens, target_lens)
    frame_lens, target_lens = frame_lens.to(emissions.device), target_lens.to(emissions.device)
    return triton_paths(emissions.contiguous(), columns, _may_jump(columns), frame_lens, target_lens)


_FASTEST = {"cpu": torchaudio_paths, "cuda": kernel_paths}


def _may_jump(columns: Tensor) -> Tensor:
    """(B, N) columns of states -> (B, N) bool: targets that may follow the target before them without a blank."""
    may_jump = torch.zeros_like(columns, dtype=torch.bool)
    may_jump[:, 3::2] = columns[:, 3::2] != columns[:, 1:-2:2]
    return may_jump


def _columns_of_states(targets: Tensor) -> Tensor:
    """(B, S) targets -> (B, 2S + 1): blank, target 1, blank, ..., target S, blank."""
    columns = targets.new_full((targets.shape[0], 2 * targets.shape[1] + 1), BLANK)
    columns[:, 1::2] = targets
    return columns


def _states_of_columns(path: Tensor) -> Tensor:
    """torchaudio's path (T,) of columns -> (T,) states: a target begins where a column follows a different one."""
    before = torch.cat([path.new_full((1,), BLANK), path[:-1]])
    emits_target = path != BLANK
    targets_begun = (emits_target & (path != before)).cumsum(0)
    return 2 * targets_begun - emits_target.long()


def _best_scores(emissions: Tensor, columns: Tensor, may_jump: Tensor) -> Tensor:
    """Log-probability of the best path into each state at each frame, (T, B, 2 + states) float32.

    Two columns of -inf in front stand for the states before the first, so that a step and a jump are views.
    """
    num_clips, num_frames, _ = emissions.shape
    emitted = emissions.gather(2, columns[:, None, :].expand(-1, num_frames, -1)).transpose(0, 1).contiguous()
    jump_cost = torch.zeros_like(emitted[0]).masked_fill_(~may_jump, -torch.inf)
    best = emissions.new_full((num_frames, num_clips, 2 + columns.shape[1]), -torch.inf)
    best[0, :, 2:4] = emitted[0, :, :2]
    into, jumped = torch.empty_like(emitted[0]), torch.empty_like(emitted[0])
    for t in range(1, num_frames):
        before = best[t - 1]
        torch.maximum(before[:, 2:], before[:, 1:-1], out=into)
        torch.add(before[:, :-2], jump_cost, out=jumped)
        torch.maximum(into, jumped, out=into)
        torch.add(into, emitted[t], out=best[t, :, 2:])
    return best


def _best_moves(best: Tensor, may_jump: Tensor, frame_lens: Tensor) -> Tensor:
    """By how many states the best path moved into each state, (T - 1, B, states) uint8: 0, 1 or 2; 0 in the padding."""
    stay, step, jump = best[:-1, :, 2:], best[:-1, :, 1:-1], best[:-1, :, :-2]
    moves = (step > stay).to(torch.uint8)
    moves.masked_fill_((jump > torch.maximum(stay, step)) & may_jump, 2)
    frames = torch.arange(1, best.shape[0], device=best.device)
    return moves.masked_fill_((frames[:, None] >= frame_lens)[:, :, None], 0)


def _last_states(best: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """(B, 1): the better of the last target and the blank after it, at each clip's last frame."""
    blank = 2 * target_lens[:, None]
    last = best[frame_lens - 1, torch.arange(len(frame_lens), device=best.device)]
    target_is_better = last.gather(1, blank + 1) >= last.gather(1, blank + 2)
    return blank - (target_is_better & (blank > 0)).long()


def _trace_back(moves: Tensor, last: Tensor) -> Tensor:
    """Follow the moves back from each clip's last state: (B, T) state of each frame."""
    states = [last]
    for moved in moves.flip(0):
        states.append(states[-1] - moved.gather(1, states[-1]))
    return torch.cat(states[::-1], dim=1)
