"""What people said, as the training hears it: whole recordings, single words cut out of them, and these in new strings.

Three of four are played up to a quarter faster or slower, which makes other voices of them. Imports no torch.
"""

import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from people import DIGITS, SAMPLE_RATE, SURE, Floats, Recording, learned_words, loud, read_people, sentence_of

from .corpus import Spoken

_TIMES = 2  # that each recording and each cut word is listed
_LONGEST_GAP_S = 0.25  # before a word of a string
_CHANGED_SHARE = 0.75
_MOST_CHANGED = 1.27  # times faster or slower, and the voice as much higher or lower: a third of an octave
_MARGIN_S = 0.03  # around a word that is cut out, where its neighbours are not nearer
_SEARCH_S = 0.04  # around the estimated boundary of two words, for the quietest place
_FADE_S = 0.004
_CUT_S = (0.2, 0.56)  # how long a word that is cut out of others lasts; what is longer holds a neighbour as well
_PEAK = 32_000


def cut_words(recording: Recording) -> list[Recording]:
    """Each word of which the times are sure, cut out where it is quiet, with a short fade."""
    starts = recording.edges[:, 0] - _MARGIN_S
    ends = recording.edges[:, 1] + _MARGIN_S
    for number in range(len(recording.words) - 1):
        if ends[number] > starts[number + 1]:
            middle = (recording.edges[number, 1] + recording.edges[number + 1, 0]) / 2
            ends[number] = starts[number + 1] = _quietest(recording.samples, float(middle))
    found = []
    for number, (word, confidence) in enumerate(zip(recording.words, recording.confidences, strict=True)):
        first = max(round(float(starts[number]) * SAMPLE_RATE), 0)
        samples = recording.samples[first : round(float(ends[number]) * SAMPLE_RATE)].copy()
        fade = round(_FADE_S * SAMPLE_RATE)
        is_alone = len(recording.words) == 1
        if confidence < SURE or not (is_alone or _CUT_S[0] < len(samples) / SAMPLE_RATE < _CUT_S[1]):
            continue
        samples[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
        samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        edges = (recording.edges[number : number + 1] - first / SAMPLE_RATE).clip(0, len(samples) / SAMPLE_RATE)
        found.append(Recording(recording.speaker, (word,), loud(samples), edges.astype(np.float32), (confidence,)))
    return found


def _quietest(samples: Floats, middle_s: float) -> float:
    """The time near a boundary at which 10 ms are the quietest."""
    hop = SAMPLE_RATE // 200
    first = max(round((middle_s - _SEARCH_S) * SAMPLE_RATE), 0)
    power = np.square(samples[first : first + round(2 * _SEARCH_S * SAMPLE_RATE)])
    if len(power) < 3 * hop:
        return middle_s
    levels = [float(power[place : place + 2 * hop].sum()) for place in range(0, len(power) - 2 * hop + 1, hop)]
    return (first + (int(np.argmin(levels)) + 1) * hop) / SAMPLE_RATE


def join(words: Sequence[Recording], gaps_s: Sequence[float]) -> Recording:
    """One speaker's recordings after each other, each behind its gap."""
    pieces: list[Floats] = []
    edges: list[Floats] = []
    place = 0
    for each, gap_s in zip(words, gaps_s, strict=True):
        gap = np.zeros(round(gap_s * SAMPLE_RATE), np.float32)
        edges.append(each.edges + (place + len(gap)) / SAMPLE_RATE)
        pieces += [gap, each.samples]
        place += len(gap) + len(each.samples)
    said = tuple(word for each in words for word in each.words)
    confidences = tuple(confidence for each in words for confidence in each.confidences)
    joined = np.concatenate(edges).astype(np.float32)
    return Recording(words[0].speaker, said, np.concatenate(pieces), joined, confidences)


def change(recording: Recording, speed: float) -> Recording:
    """Played so much faster: pitch and resonances rise as well, as of a smaller person."""
    places = np.arange(0, len(recording.samples) - 1, speed)
    changed = np.interp(places, np.arange(len(recording.samples)), recording.samples).astype(np.float32)
    return replace(recording, samples=loud(changed), edges=recording.edges / np.float32(speed))


def draw(folder: Path, rng: random.Random) -> Iterator[Spoken]:
    """All that the training hears of the people in `folder` (people.py), and prints what it leaves out."""
    recordings = read_people(folder)
    learned = learned_words([(each.speaker, each.words) for each in recordings])
    cut = [word for each in recordings for word in cut_words(each)]
    whole = [each for each in recordings if sentence_of(each.words, learned)]
    single = [each for each in cut if sentence_of(each.words, learned)]
    print(
        f"people: {len(whole)} of {len(recordings)} recordings have a text that the grammars can write; of their "
        f"{sum(len(each.words) for each in recordings)} words {len(cut)} are cut out, {len(single)} of them alone",
        flush=True,
    )
    for each in (*whole, *single):
        for _ in range(_TIMES):
            yield _heard(change(each, _draw_speed(rng)), learned)
    yield from _draw_strings(cut, learned, rng)


def kept_back(folder: Path) -> Iterator[Spoken]:
    """People whom no training hears, as they are: recordings, and words cut out, that the grammars can write."""
    known = learned_words([])
    for recording in read_people(folder):
        words = cut_words(recording) if len(recording.words) > 1 else []
        for each in (recording, *words):
            if sentence_of(each.words, known):
                yield _heard(each, known)


def _draw_strings(cut: Sequence[Recording], learned: Collection[str], rng: random.Random) -> Iterator[Spoken]:
    """Two to five words of one speaker: all digits, all letters, or any of which the ear can tell what they are."""
    for speaker in sorted({each.speaker for each in cut}):
        own = [each for each in cut if each.speaker == speaker]
        kinds = (
            [each for each in own if each.words[0] in DIGITS],
            [each for each in own if len(each.words[0]) == 1],
            [each for each in own if each.words[0] not in ("o", "oh")],
        )
        pools = [pool for pool in kinds if len(pool) > 1]
        for _ in range(len(own) if pools else 0):
            picked, speed = rng.choices(rng.choice(pools), k=rng.randrange(2, 6)), _draw_speed(rng)
            string = join([change(each, speed) for each in picked], [rng.uniform(0, _LONGEST_GAP_S) for _ in picked])
            if sentence_of(string.words, learned):
                yield _heard(string, learned)


def _heard(recording: Recording, learned: Collection[str]) -> Spoken:
    sentence = sentence_of(recording.words, learned)
    assert sentence is not None
    samples = np.round(_PEAK * loud(recording.samples)).astype(np.int16)
    return sentence, recording.edges, samples, f"human_{recording.speaker}"


def _draw_speed(rng: random.Random) -> float:
    reach = math.log(_MOST_CHANGED)
    return math.exp(rng.uniform(-reach, reach)) if rng.random() < _CHANGED_SHARE else 1.0
