"""From where tokens are emitted to when they are spoken.

A CTC head emits a token for a frame or two somewhere inside the word, once it has heard enough, and before the word
when it can guess it ("my birthday IS"); the rest is blank. Neither the emission nor the gap between two of them is a
word boundary. What is known of token k, with c its emission's centre, s its onset, L the length of its text:

  emission  it lies in the middle of the token, c = s + r L / 2. It comes early much more often than late: an error is
            normal (one frame) when it is late and has the long tail of a Cauchy distribution when it is early.
  length    the token lasts until the next one begins, s' - s = r L, with a variance of r L; a pause may follow, so an
            error has a long tail upwards.
  rate      r, frames per unit of text, is the median of (c' - c) / ((L + L') / 2) in the clip and of a typical rate.

The onsets are the maximum of that likelihood, found by iteratively reweighted least squares: every round solves one
tridiagonal system per clip, all of them at once. All scales are one frame, except how soon an emission counts as early,
which was chosen on one set of clips: 0.35 frames do as well as 0.5, while 0.25 and 0.7 add up to 50 ms to the 95th
percentile of the errors (demos/micro/evaluate_timestamps.py).
"""

import torch
import torch.nn.functional as F
from scipy.linalg import solve_banded
from torch import Tensor

EARLY_SCALE_FRAMES = 0.5  # of the Cauchy distribution of early emissions
FINAL_LENGTHENING = 1.2  # speech slows down before a pause (Wightman et al., JASA 91, 1992)
_ROUNDS = 8


def token_times(centres: Tensor, lengths: Tensor, num_tokens: Tensor, typical_rate: float) -> tuple[Tensor, Tensor]:
    """Onset and end of every token, in frames.

    Args:
        centres: (B, S) float64, mean frame of each token's emission, rising within a clip.
        lengths: (B, S) float64, how much text each token is, above 0.
        num_tokens: (B,) int64; what lies beyond is ignored.
        typical_rate: frames per unit of text; it decides where a clip is too short to tell.

    Returns:
        onsets, ends: (B, S) float64. Neighbours may overlap by parts of a frame.
    """
    position = torch.arange(centres.shape[1])
    has_next = (position + 1 < num_tokens[:, None])[:, :-1]
    lengths = lengths.masked_fill(position >= num_tokens[:, None], 1.0)
    expected = lengths * _rates(centres, lengths, has_next, typical_rate)
    middles = centres - expected / 2  # where the emissions alone put the onsets
    emission_weight = torch.ones_like(centres)
    length_weight = has_next.to(centres)
    for _ in range(_ROUNDS):
        onsets = _solve(middles, expected, emission_weight, length_weight / expected[:, :-1])
        early = (onsets - middles).clamp(min=0.0) / EARLY_SCALE_FRAMES
        emission_weight = 1.0 / (1.0 + early.square())
        surplus = (onsets.diff(dim=1) - expected[:, :-1]).clamp(min=0.0)
        length_weight = has_next / (1.0 + surplus.square() / expected[:, :-1])
    return onsets, _ends(onsets, expected, has_next, length_weight)


def _rates(centres: Tensor, lengths: Tensor, has_next: Tensor, typical_rate: float) -> Tensor:
    """(B, 1): frames per unit of text."""
    seen = centres.diff(dim=1) / ((lengths[:, :-1] + lengths[:, 1:]) / 2)
    votes = F.pad(seen.masked_fill(~has_next, torch.nan), (1, 0), value=typical_rate)
    return votes.nanmedian(dim=1, keepdim=True).values


def _solve(middles: Tensor, expected: Tensor, emission_weight: Tensor, length_weight: Tensor) -> Tensor:
    """Onsets s (B, S) with the least sum of  emission_weight (s - middle)^2 + length_weight (s' - s - expected)^2."""
    to_next, to_last = F.pad(length_weight, (0, 1)), F.pad(length_weight, (1, 0))
    pull = length_weight * expected[:, :-1]
    diagonal = emission_weight + to_next + to_last
    right = emission_weight * middles - F.pad(pull, (0, 1)) + F.pad(pull, (1, 0))
    return _solve_tridiagonal(-to_last, diagonal, -to_next, right)


def _solve_tridiagonal(below: Tensor, diagonal: Tensor, above: Tensor, right: Tensor) -> Tensor:
    """Solve many tridiagonal systems, all (B, S), as one: none begins or ends with a neighbour."""
    bands = torch.stack([each.flatten() for each in (above.roll(1, 1), diagonal, below.roll(-1, 1))])
    solved = solve_banded((1, 1), bands.numpy(), right.flatten().numpy(), check_finite=False)
    return torch.from_numpy(solved).view_as(right)


def _ends(onsets: Tensor, expected: Tensor, has_next: Tensor, length_weight: Tensor) -> Tensor:
    """A token lasts until the next one, unless that is more than a standard deviation longer than expected: a pause."""
    following = F.pad(onsets[:, 1:].masked_fill(~has_next, torch.inf), (0, 1), value=torch.inf)
    before_pause = (onsets + FINAL_LENGTHENING * expected).minimum(following)
    return torch.where(F.pad(length_weight, (0, 1)) >= 0.5, following, before_pause)
