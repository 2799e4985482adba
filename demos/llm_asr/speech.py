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
from kokoro import read_shard
from sounds import draw_sound

from twostage_asr.engine.text import LLMTokenizer

RATE = 16_000
MOST_S = 26.0  # of a clip, before it is slowed down
JOINED_SHARE, HUMAN_SHARE, EMPTY_SHARE = 0.5, 0.5, 0.05
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


class Shards:
    """Folders of shards, of which each is read once: more may be spoken while a model learns."""

    def __init__(self, folders: Sequence[Path], tokenizer: LLMTokenizer) -> None:
        self._folders, self._tokenizer = folders, tokenizer
        self._read: set[Path] = set()

    def new(self, place: int, most: int = 0) -> tuple[list[Utterance], list[Samples]]:
        """What was not there before, `most` sentences if it is not 0; the first sample will be at `place`."""
        group: list[Utterance] = []
        pieces: list[Samples] = []
        for samples, text in self._texts():
            if most and len(group) == most:
                break
            ids = encoded(text, self._tokenizer)
            group.append(Utterance(place, len(samples), text, *ids))
            pieces.append(samples)
            place += len(samples)
        return group, pieces

    def _texts(self) -> Iterator[tuple[Samples, str]]:
        for path in sorted(path for folder in self._folders for path in folder.glob("*.npz")):
            if path in self._read:
                continue
            self._read.add(path)
            for sentence, _, samples, _ in read_shard(path):
                if sentence is not None and RATE // 4 < len(samples) < MOST_S * RATE:
                    yield samples, sentence.text(itn=True)


def encoded(text: str, tokenizer: LLMTokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of a text at the beginning of an answer, and after another one."""
    return tuple(tokenizer.encode(text)), tuple(tokenizer.encode(f" {text}"))


def read_corpus(spoken: Shards, human: Shards, *, most: int = 0) -> Corpus:
    """Everything that the folders of shards hold, `most` of each kind if it is not 0, and tones and noises."""
    pieces: list[Samples] = []
    place = 0
    groups: list[list[Utterance]] = []
    for shards in (spoken, human):
        group, found = shards.new(place, most)
        groups.append(group)
        pieces += found
        place += sum(map(len, found))
    rng = np.random.default_rng(1)
    sounds = []
    for _ in range(_NUM_SOUNDS):
        sound = (20_000 * draw_sound(rng, _SOUND_S)).astype(np.int16)
        sounds.append(Utterance(place, len(sound), "", (), ()))
        pieces.append(sound)
        place += len(sound)
    return Corpus(np.concatenate(pieces), groups[0], groups[1], sounds)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B clips: `cut` says where their samples are (see train/compose.py), and the rest what to answer."""

    cut: dict[str, Tensor]
    answers: Tensor  # (B, Y) with the end token; NO_TOKEN behind it
    letters: Tensor  # of all clips, one after another, as places in LETTERS from 1 on
    num_letters: Tensor  # (B,)
    sounding: Tensor  # (B,) samples until the last sentence ends
    texts: list[str]


NO_TOKEN = -100
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"


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
        clip = [self._utterance()]
        room = rng.uniform(6.0, MOST_S - 2.0) * RATE if joined else 0.0
        while True:
            another = self._utterance()
            if sum(each.length for each in clip) / _SPEEDS[0] + another.length / _SPEEDS[0] + len(clip) * RATE > room:
                return clip
            clip.append(another)

    def _utterance(self) -> Utterance:
        spoken, human = self._corpus.spoken, self._corpus.human
        return self._rng.choice(human if human and (not spoken or self._rng.random() < HUMAN_SHARE) else spoken)


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
    spelled = [[LETTERS.index(each) + 1 for each in text.lower() if each in LETTERS] for text in texts]
    letters = torch.tensor([letter for each in spelled for letter in each], dtype=torch.long)
    return Batch(cut, padded, letters, torch.tensor([*map(len, spelled)]), torch.tensor(sizes), texts)


def _drawn(rng: random.Random | None, seconds: tuple[float, float]) -> int:
    return int(rng.uniform(*seconds) * RATE) if rng else 0


def in_order(group: Sequence[Utterance], size: int, end_id: int) -> Iterator[Batch]:
    """Each utterance as a clip of its own, unchanged."""
    for first, last in pairwise([*range(0, len(group), size), len(group)]):
        yield collate([[each] for each in group[first:last]], end_id, None)
