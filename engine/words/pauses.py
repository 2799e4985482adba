"""Word edges that fall into a pause -> the end of the sound before it, or the beginning of the sound after it.

A CTC head shows where a word is, but not how long it lasts: its length is estimated from its text (token_times.py).
Between words that are spoken one by one, both neighbours therefore reach into the pause. The waveform shows its edges.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..transcript import Word
from .timer import MIN_TOKEN_S

LEAST_PAUSE_S = 0.1  # the closure of a stop consonant is shorter, and belongs to its word
QUIET_DB = 30.0  # what is so far below the loud parts of a clip is no sound of a word
_LOUD = 0.95  # quantile of the levels: one bang does not make the words quiet
_HOP = 80  # samples: 5 ms


def edges_at_sound(words: Sequence[Word], waveform: Waveform) -> tuple[Word, ...]:
    """The words of a clip, (N,) float32 at 16 kHz, without the pauses that they reach into.

    No word begins earlier or ends later than before. A word that lies in a pause stays as it is, and so does every word
    of a clip without pauses, as in noise.
    """
    starts, ends = _pauses(waveform)
    return tuple(_at_sound(word, starts, ends) for word in words)


def _at_sound(word: Word, starts: Sequence[float], ends: Sequence[float]) -> Word:
    start, end = word.start, word.end
    at_start, at_end = bisect_right(starts, start) - 1, bisect_left(starts, end) - 1  # the last that begin before
    if at_start >= 0:
        start = max(start, ends[at_start])
    if at_end >= 0 and end <= ends[at_end]:
        end = starts[at_end]
    is_word = (start, end) != (word.start, word.end) and end - start >= MIN_TOKEN_S
    return replace(word, start=start, end=end) if is_word else word


def _pauses(waveform: Waveform) -> tuple[list[float], list[float]]:
    """Starts and ends (s) of the pauses."""
    hops = waveform[: len(waveform) // _HOP * _HOP].reshape(-1, _HOP)
    if not len(hops):
        return [], []
    power = np.convolve(np.einsum("ij,ij->i", hops, hops), np.ones(3), "same")
    place = int(_LOUD * len(power))
    loud = np.partition(power, place)[place]  # faster than quantile()
    is_quiet = power < loud * 10 ** (-QUIET_DB / 10)
    edges = np.flatnonzero(np.diff(is_quiet, prepend=False, append=False)).reshape(-1, 2)
    edges = edges[edges[:, 1] - edges[:, 0] >= LEAST_PAUSE_S * SAMPLE_RATE / _HOP]
    starts, ends = (edges * (_HOP / SAMPLE_RATE)).round(3).T.tolist()
    return starts, ends
