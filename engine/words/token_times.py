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
which was chosen by the errors that demos/micro/evaluate_timestamps.py prints.
"""

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_banded

EARLY_SCALE_FRAMES = 0.5  # of the Cauchy distribution of early emissions
FINAL_LENGTHENING = 1.2  # speech slows down before a pause (Wightman et al., JASA 91, 1992)
_ROUNDS = 8

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def token_times(
    centres: FloatArray, lengths: FloatArray, num_tokens: IntArray, typical_rate: float
) -> tuple[FloatArray, FloatArray]:
    """Onset and end of every token, in frames.

    Args:
        centres: (B, S), mean frame of each token's emission, rising within a clip.
        lengths: (B, S), how much text each token is, above 0.
        num_tokens: (B,); what lies beyond is ignored.
        typical_rate: frames per unit of text; it decides where a clip is too short to tell.

    Returns:
        onsets, ends: (B, S). Neighbours may overlap by parts of a frame.
    """
    position = np.arange(centres.shape[1])
    has_next = (position + 1 < num_tokens[:, None])[:, :-1]
    lengths = np.where(position < num_tokens[:, None], lengths, 1.0)
    expected = lengths * _rates(centres, lengths, has_next, typical_rate)
    middles = centres - expected / 2  # where the emissions alone put the onsets
    emission_weight = np.ones_like(centres)
    length_weight = has_next.astype(np.float64)
    for _ in range(_ROUNDS):
        onsets = _solve(middles, expected, emission_weight, length_weight / expected[:, :-1])
        early = (onsets - middles).clip(min=0.0) / EARLY_SCALE_FRAMES
        emission_weight = 1.0 / (1.0 + early * early)
        surplus = (np.diff(onsets, axis=1) - expected[:, :-1]).clip(min=0.0)
        length_weight = has_next / (1.0 + surplus * surplus / expected[:, :-1])
    return onsets, _ends(onsets, expected, has_next, length_weight)


def _rates(centres: FloatArray, lengths: FloatArray, has_next: BoolArray, typical_rate: float) -> FloatArray:
    """(B, 1): frames per unit of text; of an even number of votes, the lower middle one."""
    votes = np.full(centres.shape, typical_rate)
    votes[:, 1:] = np.diff(centres, axis=1) / ((lengths[:, :-1] + lengths[:, 1:]) / 2)
    votes[:, 1:][~has_next] = np.inf  # no votes: they are sorted behind those that are
    votes.sort(axis=1)
    return np.take_along_axis(votes, has_next.sum(axis=1, keepdims=True) // 2, axis=1)


def _solve(
    middles: FloatArray, expected: FloatArray, emission_weight: FloatArray, length_weight: FloatArray
) -> FloatArray:
    """Onsets s (B, S) with the least sum of  emission_weight (s - middle)^2 + length_weight (s' - s - expected)^2.

    The systems of all clips are tridiagonal and none begins or ends with a neighbour: they are solved as one.
    """
    pull = length_weight * expected[:, :-1]
    bands = np.zeros((3, *middles.shape))  # above, on and below the diagonal, as solve_banded() wants them
    bands[0, :, 1:] = bands[2, :, :-1] = -length_weight
    bands[1] = emission_weight
    bands[1, :, :-1] += length_weight
    bands[1, :, 1:] += length_weight
    right = emission_weight * middles
    right[:, :-1] -= pull
    right[:, 1:] += pull
    solved: FloatArray = solve_banded((1, 1), bands.reshape(3, -1), right.ravel(), check_finite=False)
    return solved.reshape(right.shape)


def _ends(onsets: FloatArray, expected: FloatArray, has_next: BoolArray, length_weight: FloatArray) -> FloatArray:
    """A token lasts until the next one, unless that is more than a standard deviation longer than expected: a pause."""
    following = np.full(onsets.shape, np.inf)
    following[:, :-1] = np.where(has_next, onsets[:, 1:], np.inf)
    ends: FloatArray = np.minimum(onsets + FINAL_LENGTHENING * expected, following)
    follows_on = length_weight >= 0.5
    ends[:, :-1][follows_on] = following[:, :-1][follows_on]
    return ends
