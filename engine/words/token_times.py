"""Frames in which tokens are emitted -> times at which they are spoken.

A CTC head emits a token for one or two frames somewhere inside the word, or before a word that it can predict ("my
birthday IS"). All other frames are blank. So neither the emission nor the gap between two emissions is a word boundary.
Token k has an emission with centre c, an onset s and a text of length L; primes mark token k + 1. The model:

  emission  It lies in the middle of the token, c = s + r L / 2. It is early much more often than late: the error of a
            late emission is normal (one frame), and that of an early one has the long tail of a Cauchy distribution.
  length    The token lasts until the next one begins, s' - s = r L, with a variance of r L. A pause may follow, so the
            error has a long tail upwards.
  rate      r, frames per unit of text, is the median of the clip's (c' - c) / ((L + L') / 2) and one typical rate.

The onsets maximise this likelihood. They are found by iteratively reweighted least squares: each round solves one
tridiagonal system per clip, for all clips at once. All scales are one frame, except EARLY_SCALE_FRAMES, which was
chosen by the errors that demos/micro/evaluate_timestamps.py prints.
"""

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_banded

EARLY_SCALE_FRAMES = 0.5  # scale of the Cauchy distribution of early emissions
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
        centres: (B, S), mean frame of each token's emission, increasing within a clip.
        lengths: (B, S), length of each token's text, above 0.
        num_tokens: (B,); tokens beyond are padding and ignored.
        typical_rate: frames per unit of text; it is the rate of a clip with too few tokens to estimate one.

    Returns:
        onsets, ends: (B, S). Neighbouring tokens may overlap by a fraction of a frame.
    """
    position = np.arange(centres.shape[1])
    has_next = (position + 1 < num_tokens[:, None])[:, :-1]
    lengths = np.where(position < num_tokens[:, None], lengths, 1.0)
    expected = lengths * _rates(centres, lengths, has_next, typical_rate)
    middles = centres - expected / 2  # the onsets by the emissions alone
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
    """(B, 1) rate of each clip, the median of its votes; of an even number, the lower of the two in the middle."""
    votes = np.full(centres.shape, typical_rate)
    votes[:, 1:] = np.diff(centres, axis=1) / ((lengths[:, :-1] + lengths[:, 1:]) / 2)
    votes[:, 1:][~has_next] = np.inf  # padding, which is sorted behind the votes
    votes.sort(axis=1)
    return np.take_along_axis(votes, has_next.sum(axis=1, keepdims=True) // 2, axis=1)


def _solve(
    middles: FloatArray, expected: FloatArray, emission_weight: FloatArray, length_weight: FloatArray
) -> FloatArray:
    """Onsets s (B, S) that minimise the sum of emission_weight (s - middle)^2 + length_weight (s' - s - expected)^2.

    The clips' systems are tridiagonal and not coupled with each other, so they are solved as one banded system.
    """
    pull = length_weight * expected[:, :-1]
    bands = np.zeros((3, *middles.shape))  # above, on and below the diagonal, the layout of solve_banded()
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
    """Ends of the tokens, in frames.

    A token lasts until the next one begins. If that is more than one standard deviation longer than expected, a pause
    follows, and the token lasts its expected length times FINAL_LENGTHENING.
    """
    following = np.full(onsets.shape, np.inf)
    following[:, :-1] = np.where(has_next, onsets[:, 1:], np.inf)
    ends: FloatArray = np.minimum(onsets + FINAL_LENGTHENING * expected, following)
    follows_on = length_weight >= 0.5
    ends[:, :-1][follows_on] = following[:, :-1][follows_on]
    return ends
