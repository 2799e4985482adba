"""Lessons -> batches of index arrays, planned ahead in worker processes; no samples travel, only where they are.

Clips of similar length share a batch. Planners are forked, so they must start before anything touches a GPU.
"""

import contextlib
import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from twostage_asr.encoders.adaptor import audio_token_count
from twostage_asr.encoders.fbank import WINDOW_SAMPLES, num_lfr_frames
from twostage_asr.engine.families.fun_asr_nano import HOTWORD_HEADER, FunASRNano

from .corpus import Corpus
from .lessons import MAX_HOTWORDS, Lesson, Mixture, Question, Teacher
from .vocabulary import Vocabulary

FRAME_SAMPLES = 960  # of an LFR frame: 60 ms
SLOT_FRAMES = 8  # LFR frames per audio token
WORDS_PER_SLOT = 5  # that the chunk loss asks for
NO_WORD = -1
NO_ENTRY = -1
NAME_WEIGHT = 3.0  # of tokens that a hotword may change, in the loss: to look them up is the hardest to learn
_POLL_S = 0.001  # while no batch is ready

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B clips, S segments, Q questions, A audio and Y answer tokens, P of these in names; L is the longest sequence."""

    segment_rows: Ints  # (S,)
    segment_starts: Ints  # (S,) in the clip's samples
    segment_lengths: Ints  # (S,)
    segment_sources: Ints  # (S,) first sample in the corpus
    segment_speeds: npt.NDArray[np.float32]  # (S,)
    segment_levels: npt.NDArray[np.float32]  # (S,) peak of each relative to full scale
    sample_lens: Ints  # (B,)
    token_ids: Ints  # (Q, L) prefix, zeros where the audio goes, suffix, answer, end
    audio_places: Ints  # (A,) in the flattened (Q, L)
    audio_rows: Ints  # (A,) clip
    audio_frames: Ints  # (A,) adaptor frame that the LLM reads there
    answer_places: Ints  # (Y,) in the flattened (Q, L): the positions that predict the answer's tokens
    answer_ids: Ints  # (Y,)
    answer_rows: Ints  # (Y,) question
    answer_weights: npt.NDArray[np.float32]  # (Y,) in the loss
    entry_places: Ints  # (Q, MAX_HOTWORDS) in the flattened (Q, L): the last token of each hotword, NO_ENTRY elsewhere
    name_places: Ints  # (P,) in the flattened (Q, L): the positions that predict tokens of names, lists only
    name_rows: Ints  # (P,) question
    name_targets: Ints  # (P,) which hotword says how to write the name, MAX_HOTWORDS where none does
    ctc_ids: Ints  # targets of all clips, one after another
    ctc_lens: Ints  # (B,)
    ctc_rows: Ints  # clip of each target
    ctc_windows: Ints  # (targets, 2) the first and the last frame around the middle of its word; any where unknown
    slot_words: Ints  # (B, max audio tokens, WORDS_PER_SLOT) CTC token ids of what is said there, NO_WORD elsewhere

    @property
    def audio_s(self) -> float:
        """Seconds without padding."""
        return float(self.sample_lens.sum()) / 16_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """A batch's size, padding included."""

    audio_s: float
    clips: int

    def fits(self, count: int, longest_samples: int) -> bool:
        return count <= self.clips and count * longest_samples <= self.audio_s * 16_000


@dataclass(frozen=True, slots=True)
class _Row:
    """One question and its answer."""

    ids: list[int]  # prefix, zeros where the audio goes, suffix, answer, end
    audio_at: int
    answer_weights: list[float]  # of the last ids
    entries: list[int]  # place of each hotword's last token
    names: list[tuple[int, int]]  # place that predicts a token of a name, and which hotword says how to write it


class Collator:
    """Turns lessons into a Batch."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._family = FunASRNano()
        self._word_ids: dict[str, list[int]] = {}

    def collate(self, lessons: Sequence[Lesson], *, low_frame_rate: bool = True) -> Batch:
        """One batch in the order given; at full rate the LLM reads every adaptor frame."""
        sample_lens = np.array([lesson.num_samples for lesson in lessons], np.int64)
        frames = np.array([num_lfr_frames(n) for n in sample_lens.tolist()])
        counts = audio_token_count(frames) if low_frame_rate else frames
        asked = [(clip, question) for clip, lesson in enumerate(lessons) for question in lesson.questions]
        clips = np.array([clip for clip, _ in asked], np.int64)
        rows = [self._row(question, int(counts[clip])) for clip, question in asked]
        width = max(len(row.ids) for row in rows)
        token_ids = np.zeros((len(rows), width), np.int64)
        entry_places = np.full((len(rows), MAX_HOTWORDS), NO_ENTRY, np.int64)
        audio_places, answer_places, answer_rows = [], [], []
        for index, (row, count) in enumerate(zip(rows, counts[clips].tolist(), strict=True)):
            answer_at, begin = len(row.ids) - len(row.answer_weights), index * width
            token_ids[index, : len(row.ids)] = row.ids
            entry_places[index, : len(row.entries)] = begin + np.array(row.entries, np.int64)
            audio_places.append(begin + row.audio_at + np.arange(count))
            answer_places.append(begin + np.arange(answer_at - 1, len(row.ids) - 1))
            answer_rows.append(np.full(len(row.ids) - answer_at, index))
        names = [(index, place, target) for index, row in enumerate(rows) for place, target in row.names]
        places = np.concatenate(answer_places)
        ctc = [self._vocabulary.ctc.encode(lesson.ctc_text) for lesson in lessons]
        segments = [(row, each) for row, lesson in enumerate(lessons) for each in lesson.segments]
        return Batch(
            segment_rows=np.array([row for row, _ in segments], np.int64),
            segment_starts=np.array([each.start for _, each in segments], np.int64),
            segment_lengths=np.array([each.length for _, each in segments], np.int64),
            segment_sources=np.array([each.source for _, each in segments], np.int64),
            segment_speeds=np.array([each.speed for _, each in segments], np.float32),
            segment_levels=np.array([each.level for _, each in segments], np.float32),
            sample_lens=sample_lens,
            token_ids=token_ids,
            audio_places=np.concatenate(audio_places),
            audio_rows=np.repeat(clips, counts[clips]),
            audio_frames=np.concatenate([np.arange(count) for count in counts[clips]]),
            answer_places=places,
            answer_ids=token_ids.reshape(-1)[places + 1],
            answer_rows=np.concatenate(answer_rows),
            answer_weights=np.array([weight for row in rows for weight in row.answer_weights], np.float32),
            entry_places=entry_places,
            name_places=np.array([index * width + place for index, place, _ in names], np.int64),
            name_rows=np.array([index for index, _, _ in names], np.int64),
            name_targets=np.array([target for _, _, target in names], np.int64),
            ctc_ids=np.array([token for ids in ctc for token in ids], np.int64),
            ctc_lens=np.array([len(ids) for ids in ctc], np.int64),
            ctc_rows=np.repeat(np.arange(len(lessons)), [len(ids) for ids in ctc]),
            ctc_windows=np.array(
                [
                    window
                    for lesson, ids, count in zip(lessons, ctc, frames.tolist(), strict=True)
                    for window in self._ctc_windows(lesson, ids, count)
                ],
                np.int64,
            ).reshape(-1, 2),
            slot_words=self._slot_words(lessons, -(-int(frames.max()) // SLOT_FRAMES)),
        )

    def _row(self, question: Question, num_audio: int) -> _Row:
        request, written = question.request, dict(question.names)
        text = self._family.prompt_text(request)
        prefix, entries = self._vocabulary.encode_with_ends(text.prefix, _hotword_ends(text.prefix, request.hotwords))
        suffix = self._vocabulary.encode(text.suffix)
        answer, marks = self._vocabulary.encode_marked(question.text, list(written))
        weights = [NAME_WEIGHT if name else 1.0 for name in marks]
        answer_at = len(prefix) + num_audio + len(suffix)
        number = {hotword: index for index, hotword in enumerate(request.hotwords)}
        names = [
            (answer_at + place - 1, number.get(written[name] or "", MAX_HOTWORDS))
            for place, name in enumerate(marks)
            if name and request.hotwords
        ]
        ids = [*prefix, *([0] * num_audio), *suffix, *answer, self._vocabulary.end_id]
        return _Row(ids, len(prefix), [*weights, 1.0], entries, names)

    def _ctc_windows(self, lesson: Lesson, ids: Sequence[int], num_frames: int) -> list[tuple[int, int]]:
        """Of each token of the CTC text, from the words' times; whole clips where the text is not these words."""
        ends, place = [], 0  # of the words in the text: in bytes, and the last one's in characters
        for word, _ in lesson.words:
            start = lesson.ctc_text.find(word, place)
            if start < 0 or lesson.ctc_text[place:start].strip():
                break
            size = len(lesson.ctc_text[place : start + len(word)].encode())
            ends.append(size + (ends[-1] if ends else 0))
            place = start + len(word)
        if len(ends) < len(lesson.words) or lesson.ctc_text[place:].strip():
            return [(0, num_frames - 1)] * len(ids)
        owners = np.searchsorted(ends, np.cumsum(self._vocabulary.ctc.byte_lengths(ids)))
        counts = np.bincount(owners, minlength=len(ends))
        windows = []
        for owner in owners.tolist():
            middle = (lesson.words[owner][1] - WINDOW_SAMPLES // 2) / FRAME_SAMPLES
            reach = float(counts[owner])
            first, last = math.floor(middle - reach + 0.5), math.ceil(middle + reach - 0.5)
            windows.append((min(max(first, 0), num_frames - 1), max(min(last, num_frames - 1), 0)))
        return windows

    def _slot_words(self, lessons: Sequence[Lesson], num_slots: int) -> Ints:
        out = np.full((len(lessons), num_slots, WORDS_PER_SLOT), NO_WORD, np.int64)
        for row, lesson in enumerate(lessons):
            filled: dict[int, int] = {}
            for word, middle in lesson.words:
                slot = min(middle // (FRAME_SAMPLES * SLOT_FRAMES), num_slots - 1)
                for token in self._ids_of(word):
                    place = filled.get(slot, 0)
                    if place < WORDS_PER_SLOT:
                        out[row, slot, place] = token
                        filled[slot] = place + 1
        return out

    def _ids_of(self, word: str) -> list[int]:
        if word not in self._word_ids:
            self._word_ids[word] = self._vocabulary.ctc.encode(f" {word}" if word.isascii() else word)
        return self._word_ids[word]


def _hotword_ends(prefix: str, hotwords: Sequence[str]) -> list[int]:
    """Where each hotword of the prompt's list ends."""
    if not hotwords:
        return []
    header, separator = HOTWORD_HEADER.partition("{}")[0], ", "
    ends, end = [], prefix.index(header) + len(header) - len(separator)
    for hotword in hotwords:
        end += len(separator) + len(hotword)
        ends.append(end)
    return ends


def cut_into_batches(lessons: Sequence[Lesson], limits: BatchLimits) -> list[list[Lesson]]:
    """Batches of clips of similar length, as large as `limits` allows."""
    batches: list[list[Lesson]] = [[]]
    for lesson in sorted(lessons, key=lambda lesson: -lesson.num_samples):
        if batches[-1] and not limits.fits(len(batches[-1]) + 1, batches[-1][0].num_samples):
            batches.append([])
        batches[-1].append(lesson)
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerOptions:
    """What a planner needs to know."""

    limits: BatchLimits
    seed: int
    full_rate_share: float = 0.08  # of batches
    group_size: int = 2400  # lessons that are sorted by length together
    num_planners: int = 4
    queue_size: int = 6  # batches ahead, per planner


class Planners:
    """Processes that plan batches without end. A context manager: they end with it."""

    def __init__(self, corpus: Corpus, vocabulary: Vocabulary, options: PlannerOptions) -> None:
        context = multiprocessing.get_context("fork")
        self._progress: Any = context.Value("d", 0.0)
        self._queues: list[Queue[Batch]] = []
        self._processes = []
        for index in range(options.num_planners):
            queue: Queue[Batch] = context.Queue(options.queue_size)
            arguments = (corpus, vocabulary, options, index, self._progress, queue)
            process = context.Process(target=_plan, args=arguments, daemon=True)
            process.start()
            self._queues.append(queue)
            self._processes.append(process)

    def __enter__(self) -> "Planners":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def set_progress(self, progress: float) -> None:
        """Where the training is, 0..1: decides what is planned from now on."""
        self._progress.value = progress

    def __iter__(self) -> Iterator[Batch]:
        """Batches, from each planner in turn, or from those that have one ready."""
        while True:
            is_idle = True
            for queue in self._queues:
                with contextlib.suppress(Empty):
                    yield queue.get_nowait()
                    is_idle = False
            if is_idle:
                time.sleep(_POLL_S)
                if not any(process.is_alive() for process in self._processes):
                    raise RuntimeError("all planners have died")


def _plan(
    corpus: Corpus, vocabulary: Vocabulary, options: PlannerOptions, index: int, progress: Any, queue: "Queue[Batch]"
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent ends it, and may first have batches to ask for
        signal.signal(number, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)  # after a fork, OpenMP's other threads are gone
    rng = random.Random(f"planner {options.seed} {index}")
    teacher = Teacher(corpus, rng)
    collator = Collator(vocabulary)
    while True:
        mixture = Mixture.at(progress.value)
        lessons = [teacher.draw(mixture) for _ in range(options.group_size)]
        batches = cut_into_batches(lessons, options.limits)
        rng.shuffle(batches)
        for batch in batches:
            queue.put(collator.collate(batch, low_frame_rate=rng.random() >= options.full_rate_share))
