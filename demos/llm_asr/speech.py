"""Spoken sentences in memory, and batches of clips cut and joined from them.

About half of the clips hold one sentence, the others several, with pauses between them. Some hold none but tones or
noises, for which nothing is to be written.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "micro"))
from kokoro import read_shards
from sounds import draw_sound

from twostage_asr.engine.text import LLMTokenizer

RATE = 16_000
MOST_S = 26.0  # of a clip, before it is slowed down
JOINED_SHARE, HUMAN_SHARE, EMPTY_SHARE = 0.5, 0.15, 0.05
_SPEEDS = (0.9, 1.12)
_BEFORE_S, _BETWEEN_S, _AFTER_S = (0.0, 0.6), (0.1, 0.9), (0.0, 1.0)
_NUM_SOUNDS, _SOUND_S = 64, 6.0
_LEVELS = (0.3, 1.0)  # peak of a sentence, where the loudest of a clip has about 1

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """A sentence in the corpus, or a sound without a text."""

    start: int
    length: int
    text: str
    first_ids: tuple[int, ...]  # of the text at the beginning of an answer
    next_ids: tuple[int, ...]  # of the text after another one


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Samples one after another, and what they say."""

    samples: Samples
    spoken: list[Utterance]
    human: list[Utterance]
    sounds: list[Utterance]


def read_corpus(spoken: Sequence[Path], human: Sequence[Path], tokenizer: LLMTokenizer, *, most: int = 0) -> Corpus:
    """Everything that the folders of shards hold, `most` of each kind if it is not 0, and tones and noises."""
    pieces: list[Samples] = []
    place = 0
    groups: list[list[Utterance]] = []
    for folders in (spoken, human):
        group: list[Utterance] = []
        for samples, text in _texts(folders):
            if most and len(group) == most:
                break
            ids = (tuple(tokenizer.encode(each)) for each in (text, f" {text}"))
            group.append(Utterance(place, len(samples), text, *ids))
            pieces.append(samples)
            place += len(samples)
        groups.append(group)
    rng = np.random.default_rng(1)
    sounds = []
    for _ in range(_NUM_SOUNDS):
        sound = (20_000 * draw_sound(rng, _SOUND_S)).astype(np.int16)
        sounds.append(Utterance(place, len(sound), "", (), ()))
        pieces.append(sound)
        place += len(sound)
    return Corpus(np.concatenate(pieces), groups[0], groups[1], sounds)


def _texts(folders: Sequence[Path]) -> Iterator[tuple[Samples, str]]:
    for folder in folders:
        for sentence, _, samples, _ in read_shards(folder):
            if sentence is not None and RATE // 4 < len(samples) < MOST_S * RATE:
                yield samples, sentence.text(itn=True)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B clips: `cut` says where their samples are (see train/compose.py), and the rest what to answer."""

    cut: dict[str, Tensor]
    answers: Tensor  # (B, Y) with the end token; NO_TOKEN behind it
    sounding: Tensor  # (B,) samples until the last sentence ends
    texts: list[str]


NO_TOKEN = -100


class Batches:
    """Draws batches without end."""

    def __init__(self, corpus: Corpus, end_id: int, size: int, seed: int) -> None:
        self._corpus, self._end_id, self._size = corpus, end_id, size
        self._rng = random.Random(seed)

    def draw(self) -> Batch:
        """All clips of a batch hold one sentence, or all several, so that little of it is padding."""
        joined = self._rng.random() < JOINED_SHARE
        return collate([self._clip(joined) for _ in range(self._size)], self._end_id, self._rng)

    def _clip(self, joined: bool) -> list[Utterance]:
        rng, corpus = self._rng, self._corpus
        if rng.random() < EMPTY_SHARE:
            return [rng.choice(corpus.sounds)]
        pool = corpus.human if corpus.human and (not corpus.spoken or rng.random() < HUMAN_SHARE) else corpus.spoken
        clip = [rng.choice(pool)]
        room = rng.uniform(6.0, MOST_S - 2.0) * RATE if joined else 0.0
        while True:
            another = rng.choice(corpus.spoken or pool)
            if sum(each.length for each in clip) / _SPEEDS[0] + another.length / _SPEEDS[0] + len(clip) * RATE > room:
                return clip
            clip.append(another)


def collate(clips: Sequence[Sequence[Utterance]], end_id: int, rng: random.Random | None) -> Batch:
    """One batch; without `rng` nothing is random: no silence before, one speed and one level."""
    rows, starts, lengths, sources, speeds, levels = ([] for _ in range(6))
    sizes, answers, texts = [], [], []
    for row, clip in enumerate(clips):
        place = _drawn(rng, _BEFORE_S)
        answer: list[int] = []
        for each in clip:
            speed = rng.uniform(*_SPEEDS) if rng else 1.0
            length = int((each.length - 1) / speed)
            rows.append(row), starts.append(place), lengths.append(length), sources.append(each.start)
            speeds.append(speed), levels.append(rng.uniform(*_LEVELS) if rng else 1.0)
            place += length + _drawn(rng, _BETWEEN_S)
            answer += each.next_ids if answer else each.first_ids
        sizes.append(min(place + _drawn(rng, _AFTER_S), 30 * RATE))
        answers.append([*answer, end_id])
        texts.append(" ".join(each.text for each in clip))
    ints = {"segment_rows": rows, "segment_starts": starts, "segment_lengths": lengths, "segment_sources": sources}
    cut = {name: torch.tensor(values) for name, values in ints.items()}
    cut |= {"segment_speeds": torch.tensor(speeds), "segment_levels": torch.tensor(levels)}
    cut |= {"sample_lens": torch.tensor(sizes), "num_segment_samples": torch.tensor(sum(lengths))}
    width = max(map(len, answers))
    padded = torch.tensor([answer + [NO_TOKEN] * (width - len(answer)) for answer in answers])
    return Batch(cut, padded, torch.tensor(sizes), texts)


def _drawn(rng: random.Random | None, seconds: tuple[float, float]) -> int:
    return int(rng.uniform(*seconds) * RATE) if rng else 0


def in_order(group: Sequence[Utterance], size: int, end_id: int) -> Iterator[Batch]:
    """Each utterance as a clip of its own, unchanged."""
    for first, last in pairwise([*range(0, len(group), size), len(group)]):
        yield collate([[each] for each in group[first:last]], end_id, None)
