"""CTC forced alignment: which frames of a clip emit which target, for B padded clips at once.

In:  emissions (B, T, K) float32, log-probabilities of K columns only: column 0 is blank, the others are what a target
     may be; targets (B, S) int64, indices into 1..K-1; lengths of both. Padding holds any valid index.
Out: `TokenFrames`: for each target the run of frames that the best path gives it, and the best path's log-probability.

The model is that of Graves et al., "Connectionist temporal classification" (ICML 2006): blank, target 1, blank, ...,
target S, blank are 2S + 1 states; a frame stays in its state, steps to the next one, or jumps over a blank that lies
between two different targets. A clip can therefore be aligned when it has at least `min_frames(targets)` frames, which
callers make sure of.

Two searches give the same score, and the same path wherever the best path is unique. torchaudio's runs clip by clip in
C++, ours runs all clips at once in 4 + 2 tensor operations per frame: on a CPU torchaudio's is faster at every batch
size, on a GPU its one launch per frame and clip is what costs (demos/benchmark_alignment.py prints the table).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchaudio.functional import forced_align

BLANK = 0  # its column in `emissions`


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TokenFrames:
    """Where the best path emits each target: frames first ... end - 1. Entries beyond a clip's targets mean nothing."""

    first: Tensor  # (B, S) int64
    end: Tensor  # (B, S) int64
    score: Tensor  # (B,) float32, log-probability of the best path


def min_frames(targets: Sequence[int]) -> int:
    """The fewest frames that can emit `targets`: one each, and a blank between two equal neighbours."""
    return len(targets) + sum(a == b for a, b in itertools.pairwise(targets))


def align_tokens(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> TokenFrames:
    """Forced alignment by whichever search is faster on the device that holds `emissions`."""
    search = viterbi_torchaudio if emissions.device.type == "cpu" else viterbi_batched
    return search(emissions, targets, frame_lens, target_lens)


def viterbi_torchaudio(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> TokenFrames:
    """One call of torchaudio.functional.forced_align per clip."""
    states = torch.zeros(emissions.shape[:2], dtype=torch.int64, device=emissions.device)
    for b, (num_frames, num_targets) in enumerate(zip(frame_lens.tolist(), target_lens.tolist(), strict=True)):
        if num_targets:
            clip = emissions[b : b + 1, :num_frames]
            labels, _ = forced_align(clip, targets[b : b + 1, :num_targets], blank=BLANK)
            states[b, :num_frames] = _states_of_labels(labels[0])
    return _token_frames(states, emissions, targets, frame_lens)


def viterbi_batched(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> TokenFrames:
    """All clips at once on the device: a loop over frames only. Of equal ways into a state, the shortest move wins."""
    labels = _labels_of_states(targets)
    may_jump = torch.zeros_like(labels, dtype=torch.bool)
    may_jump[:, 3::2] = labels[:, 3::2] != labels[:, 1:-2:2]
    best = _best_scores(emissions, labels, may_jump)
    moves = _best_moves(best, may_jump, frame_lens)
    states = _trace_back(moves, _last_states(best, frame_lens, target_lens))
    return _token_frames(states, emissions, targets, frame_lens)


def _labels_of_states(targets: Tensor) -> Tensor:
    """(B, S) targets -> (B, 2S + 1) columns: blank, target 1, blank, ..., target S, blank."""
    labels = targets.new_full((targets.shape[0], 2 * targets.shape[1] + 1), BLANK)
    labels[:, 1::2] = targets
    return labels


def _best_scores(emissions: Tensor, labels: Tensor, may_jump: Tensor) -> Tensor:
    """Log-probability of the best path into each state at each frame, (T, B, 2 + states) float32.

    Two columns of -inf in front stand for the states before the first, so that a step and a jump are views.
    """
    num_clips, num_frames, _ = emissions.shape
    num_states = labels.shape[1]
    emitted = emissions.gather(2, labels[:, None, :].expand(-1, num_frames, -1)).transpose(0, 1).contiguous()
    jump_cost = torch.zeros_like(emitted[0]).masked_fill_(~may_jump, -torch.inf)
    best = emissions.new_full((num_frames, num_clips, 2 + num_states), -torch.inf)
    best[0, :, 2:4] = emitted[0, :, :2]
    into = torch.empty_like(emitted[0])
    jumped = torch.empty_like(emitted[0])
    for t in range(1, num_frames):
        before = best[t - 1]
        torch.maximum(before[:, 2:], before[:, 1:-1], out=into)
        torch.add(before[:, :-2], jump_cost, out=jumped)
        torch.maximum(into, jumped, out=into)
        torch.add(into, emitted[t], out=best[t, :, 2:])
    return best


def _best_moves(best: Tensor, may_jump: Tensor, frame_lens: Tensor) -> Tensor:
    """By how many states the best path moved into each state, (T - 1, B, states) int64 of 0, 1, 2; 0 in the padding."""
    stay, step, jump = best[:-1, :, 2:], best[:-1, :, 1:-1], best[:-1, :, :-2]
    moves = (step > stay).long()
    moves.masked_fill_((jump > torch.maximum(stay, step)) & may_jump, 2)
    frames = torch.arange(1, best.shape[0], device=best.device)
    return moves.masked_fill_((frames[:, None] >= frame_lens.to(best.device))[:, :, None], 0)


def _last_states(best: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    """(B, 1): the better of the last target and the blank after it, at each clip's last frame."""
    blank = 2 * target_lens.to(best.device)
    rows = torch.arange(best.shape[1], device=best.device)
    last = best[frame_lens.to(best.device) - 1, rows]
    ends = last.gather(1, torch.stack([blank + 1, blank + 2], dim=1))
    return (blank - (ends[:, 0] >= ends[:, 1]).long())[:, None]


def _trace_back(moves: Tensor, last: Tensor) -> Tensor:
    """Follow the moves back from each clip's last state: (B, T) state of each frame."""
    states = [last]
    for moved in moves.flip(0):
        states.append(states[-1] - moved.gather(1, states[-1]))
    return torch.cat(states[::-1], dim=1)


def _states_of_labels(labels: Tensor) -> Tensor:
    """torchaudio's path (T,) of columns -> (T,) states: a target begins where a label follows a different one."""
    before = torch.cat([labels.new_full((1,), BLANK), labels[:-1]])
    is_target = labels != BLANK
    begun = (is_target & (labels != before)).cumsum(0)
    return 2 * begun - is_target.long()


def _token_frames(states: Tensor, emissions: Tensor, targets: Tensor, frame_lens: Tensor) -> TokenFrames:
    """Runs of frames out of the never falling states; the score is the sum of what the path emits."""
    num_frames = states.shape[1]
    in_clip = torch.arange(num_frames, device=states.device) < frame_lens.to(states.device)[:, None]
    labels = _labels_of_states(targets).gather(1, states)
    emitted = emissions.gather(2, labels[:, :, None])[:, :, 0]
    beyond = states.masked_fill(~in_clip, 2 * targets.shape[1] + 1)
    target_states = torch.arange(1, 2 * targets.shape[1], 2, device=states.device).expand(len(states), -1).contiguous()
    return TokenFrames(
        first=torch.searchsorted(beyond, target_states),
        end=torch.searchsorted(beyond, target_states, right=True),
        score=emitted.masked_fill(~in_clip, 0.0).sum(1),
    )
