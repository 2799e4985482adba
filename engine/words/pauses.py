"""Words and the sounds between pauses -> words that lie in sounds.

A CTC head shows where a word is, but not how long it lasts: its length is estimated from its text (token_times.py).
Between words that are spoken one by one, both neighbours therefore reach into the pause. Where the head hears a word
badly, it may even put it into the sound of its neighbour, and leave its own sound without a word. The waveform shows
the sounds. Each word belongs to one of them, in order, so that this sum is the least:

- of each word, how far (s) its middle is from its sound;
- of each sound without a word, its length SOUND_WEIGHT times, but MOST_S at most: a cough is no word.

Both limits were chosen on the digits of three human speakers (demos/hearing.md).

The search for this sum takes sounds times words, and what is loud may change in an hour. So a long recording is cut
into pieces, between two words that are far apart.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

import numpy as np

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..transcript import Word
from .timer import MIN_TOKEN_S
from .token_times import FloatArray

LEAST_PAUSE_S = 0.1  # the closure of a stop consonant is shorter, and belongs to its word
QUIET_DB = 30.0  # what is so far below the loud parts of a clip is no sound of a word
SOUND_WEIGHT = 3.0
MOST_S = 0.5
MOST_LONGER = 2.0  # a word that is alone in its sound lasts as long as the sound, up to this many times its estimate
PIECE_S = 60.0  # a recording is cut into pieces of one to two times this length, where it has words
_LOUD = 0.95  # quantile of the levels: one bang does not make the words quiet
_HOP = 80  # samples: 5 ms
_HOPS_PER_S = SAMPLE_RATE // _HOP
_EVERY = 4  # levels from which that one is taken


class _Sounds(NamedTuple):
    """Where (s) the sounds of a piece begin and end, in order; pauses are between them."""

    starts: list[float]
    ends: list[float]
    piece_start: float
    piece_end: float


def edges_at_sound(words: Sequence[Word], waveform: Waveform) -> tuple[Word, ...]:
    """The words of a clip, (N,) float32 at 16 kHz, where the clip's sounds are.

    A word that finds no room in its sound stays as it is, and so does every word of a clip without pauses, as in noise.
    """
    found: list[Word] = []
    for of_piece, hops in _pieces(words):
        piece = waveform[hops.start * _HOP : None if hops.stop is None else hops.stop * _HOP]
        found += _in_piece(words[of_piece], _sounds(piece, hops.start))
    return tuple(found)


def _pieces(words: Sequence[Word]) -> Iterator[tuple[slice, slice]]:
    """The words of each piece of a recording, and its hops; the last piece has those up to the end."""
    starts, ends = np.array([word.start for word in words]), np.array([word.end for word in words])
    first = begin = 0
    while len(words) and ends[-1] > (begin_s := begin / _HOPS_PER_S) + 2 * PIECE_S:
        near, far = ends.searchsorted([begin_s + PIECE_S, begin_s + 2 * PIECE_S]).tolist()
        if near == len(words) - 1:
            break
        far = max(far, near + 1)
        last = near + int((starts[near + 1 : far + 1] - ends[near:far]).argmax())
        stop = round((ends[last] + starts[last + 1]) / 2 * _HOPS_PER_S)
        yield slice(first, last + 1), slice(begin, stop)
        first, begin = last + 1, stop
    yield slice(first, None), slice(begin, None)


def _in_piece(words: Sequence[Word], sounds: _Sounds) -> Sequence[Word]:
    if not words or not sounds.starts:
        return words
    own = _own_sounds(np.array([(word.start + word.end) / 2 for word in words]), sounds)
    is_alone = [before != i != after for before, i, after in zip([-1, *own], own, [*own[1:], -1], strict=False)]
    firsts = [sounds.starts[i] if alone else inf for i, alone in zip(own, is_alone, strict=True)]
    lasts = [sounds.ends[i] if alone else -inf for i, alone in zip(own, is_alone, strict=True)]
    limits = zip(words, own, is_alone, [-inf, *lasts[:-1]], [*firsts[1:], inf], strict=True)
    return [_in_sound(*each, sounds) for each in limits]


def _in_sound(word: Word, own: int, is_alone: bool, earliest: float, latest: float, sounds: _Sounds) -> Word:
    """The word in its own sound, out of the sounds of neighbours that are alone in them, which end and begin there."""
    first, last = sounds.starts[own], sounds.ends[own]
    if first <= word.start and word.end <= last and not is_alone:
        return word
    start, end = max(word.start, earliest), min(word.end, latest)
    # No edge stays in a pause.
    start = max(start, sounds.starts[bisect_right(sounds.ends, start, hi=len(sounds.ends) - 1)])
    end = min(end, sounds.ends[bisect_left(sounds.starts, end, lo=1) - 1])
    is_bounded = first > sounds.piece_start and last < sounds.piece_end  # by pauses
    if is_alone and is_bounded and last - first <= MOST_LONGER * (word.end - word.start):
        is_outside = start >= last or end <= first
        start, end = (first, last) if is_outside else (min(start, first), max(end, last))
    is_moved = (start, end) != (word.start, word.end) and end - start >= MIN_TOKEN_S
    return replace(word, start=start, end=end) if is_moved else word


def _own_sounds(middles: FloatArray, sounds: _Sounds) -> list[int]:
    """The index of each word's sound, in the order of the words; see the top of this file."""
    starts, ends = np.array(sounds.starts), np.array(sounds.ends)
    nearest: list[int] = ((ends[:-1] + starts[1:]) / 2).searchsorted(middles).tolist()
    if len(set(nearest)) == len(starts):
        return nearest
    sums = np.full(len(middles) + 1, np.inf)  # the least for the first n words in the sounds so far
    sums[0] = 0.0
    places = np.arange(len(sums))
    begins = []  # of the first n words, for each sound: where those in it begin, n if the last is in none or before
    for start, end in zip(sounds.starts, sounds.ends, strict=True):
        away = np.concatenate([[0.0], np.maximum(start - middles, middles - end).clip(min=0.0).cumsum()])
        before = sums - away
        least = np.minimum.accumulate(before)
        first = np.maximum.accumulate(np.where(before == least, places, 0))
        sums = sums + min(SOUND_WEIGHT * (end - start), MOST_S)
        with_words = away[1:] + least[:-1]
        begins.append([0, *np.where(with_words < sums[1:], first[:-1], places[1:]).tolist()])
        np.minimum(sums[1:], with_words, out=sums[1:])
    bounds = [len(middles)]
    for begin in reversed(begins):
        bounds.append(begin[bounds[-1]])
    counts = -np.diff(bounds)[::-1]
    return [i for i, count in enumerate(counts.tolist()) for _ in range(count)]


def _sounds(waveform: Waveform, first_hop: int) -> _Sounds:
    """Runs of sound; quiet that is shorter than LEAST_PAUSE_S is a part of them. All of a silent piece is one sound.

    `first_hop`: where the piece begins in its recording, whose times are returned.
    """
    hops = waveform[: len(waveform) // _HOP * _HOP].reshape(-1, _HOP)
    if not len(hops):
        return _Sounds([], [], 0.0, 0.0)
    power = np.convolve(np.einsum("ij,ij->i", hops, hops), np.ones(3, np.float32), "same")
    some = power[::_EVERY]
    place = int(_LOUD * len(some))
    loud = np.partition(some, place)[place]  # faster than quantile()
    is_sound = np.zeros(len(power) + 2, np.bool_)
    np.greater_equal(power, loud * 10 ** (-QUIET_DB / 10), out=is_sound[1:-1])
    edges = np.flatnonzero(is_sound[1:] != is_sound[:-1])
    starts, ends = edges[::2], edges[1::2]
    is_pause = np.ones(len(starts) + 1, np.bool_)
    np.greater_equal(starts[1:] - ends[:-1], LEAST_PAUSE_S * _HOPS_PER_S, out=is_pause[1:-1])
    starts_s: list[float] = ((starts[is_pause[:-1]] + first_hop) / _HOPS_PER_S).tolist()
    ends_s: list[float] = ((ends[is_pause[1:]] + first_hop) / _HOPS_PER_S).tolist()
    return _Sounds(starts_s, ends_s, first_hop / _HOPS_PER_S, (first_hop + len(power)) / _HOPS_PER_S)
