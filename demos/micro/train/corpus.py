"""The training corpus: sentences of the grammars, spoken once each in worker processes and kept in memory.

Imports no torch, so that workers start quickly and may be forked.
"""

import itertools
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from english import ENGLISH
from espeak import SAMPLE_RATE, EspeakError, Synthesizer
from everyday import DRILLS, EVERYDAY, is_reserved
from grammar import Grammar, Sentence, Unit
from mandarin import MANDARIN, PLACEHOLDERS
from mixed import MIXED
from render import speak_sentence
from sounds import draw_sound
from voices import ENGLISH_FILES, draw_training_voice
from workers import run_jobs

BLOCK_SIZE = 12  # neighbouring sentences in one voice
SHARD_SIZE = 20 * BLOCK_SIZE  # what a worker makes at a time
LONGEST_S = 12.0
_NAME_SHARE = 0.35  # of sentences, at least
_PLACEHOLDER_SHARE = 0.08  # of Mandarin sentences with a name
_MIXED_SHARE = 0.2  # of what is neither everyday nor drill; natural voices speak no such sentence
_EVERYDAY_SHARE = 0.3
_DRILL_SHARE = 0.15
_USUAL_SAMPLES = 3 * SAMPLE_RATE  # more than an average sentence has
_REPORT_S = 5.0  # between progress lines
_PEAK = 32_000  # of every sentence, in 16-bit steps


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """One spoken sentence, or one sound without words, and where its samples are."""

    sentence: Sentence | None
    edges: npt.NDArray[np.float32]  # (W, 2) start and end of each word in seconds
    block: int  # equal for neighbours in one voice
    offset: int  # of its first sample in Corpus.audio
    num_samples: int


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """All utterances and their samples, peak-normalised."""

    speech: list[Utterance]  # by block
    sounds: list[Utterance]
    audio: npt.NDArray[np.int16]  # (N,) one after the other

    @property
    def hours(self) -> float:
        return len(self.audio) / SAMPLE_RATE / 3600


@dataclass(frozen=True, slots=True)
class _Job:
    index: int
    seed: str
    num_speech: int
    num_sounds: int


def build_corpus(*, num_sentences: int, num_sounds: int, seed: int, num_workers: int) -> Corpus:
    """Speak about `num_sentences` sentences, none of them held out, and make `num_sounds` sounds."""
    started = reported = time.perf_counter()
    num_jobs = max(num_sentences // SHARD_SIZE, 1)
    size = min(num_sentences, SHARD_SIZE)
    jobs = [_Job(i, f"corpus {seed} {i}", size, -(-num_sounds // num_jobs)) for i in range(num_jobs)]
    speech: list[Utterance] = []
    sounds: list[Utterance] = []
    audio = np.empty(_USUAL_SAMPLES * (num_sentences + 4 * num_sounds), np.int16)  # takes memory only where written
    offset = 0
    for utterances, samples in run_jobs(_make_shard, jobs, num_workers=num_workers):
        for each in utterances:
            moved = Utterance(each.sentence, each.edges, each.block, each.offset + offset, each.num_samples)
            (sounds if each.sentence is None else speech).append(moved)
        if offset + len(samples) > len(audio):
            audio = np.concatenate([audio, np.empty_like(audio)])
        audio[offset : offset + len(samples)] = samples
        offset += len(samples)
        if time.perf_counter() - reported > _REPORT_S:
            reported = time.perf_counter()
            _report(len(speech), offset, started)
    _report(len(speech), offset, started)
    return Corpus(speech, sounds, audio[:offset])


Spoken = tuple[Sentence | None, npt.NDArray[np.float32], npt.NDArray[np.int16], str]  # as read_shards gives it


def add_voices(corpus: Corpus, spoken: Iterable[Spoken], kind: str, *, share: float) -> Corpus:
    """The corpus with what voices of some kind said, listed as often as makes it that share of all there is.

    Sentences join the speech; speech of unknown words joins the sounds, for which nothing is to be written.
    """
    speech: list[Utterance] = []
    unknown: list[Utterance] = []
    pieces, offset = [corpus.audio], len(corpus.audio)
    first = min((each.block for each in corpus.speech), default=0) - 2
    for number, (sentence, edges, samples, _) in enumerate(spoken):
        if sentence is not None and is_reserved(sentence):
            continue
        (unknown if sentence is None else speech).append(
            Utterance(sentence, edges, first - number, offset, len(samples))
        )
        pieces.append(samples)
        offset += len(samples)
    hours = (offset - len(corpus.audio)) / SAMPLE_RATE / 3600
    print(f"{kind}: {len(speech)} sentences and {len(unknown)} of unknown words, {hours:.2f} h", flush=True)
    return Corpus(
        corpus.speech + _repeat(speech, share, len(corpus.speech)),
        corpus.sounds + _repeat(unknown, share, len(corpus.sounds)),
        np.concatenate(pieces),
    )


def _repeat(utterances: list[Utterance], share: float, others: int) -> list[Utterance]:
    """The list as often as makes it `share` beside `others` utterances, each time in an order of its own."""
    rng = random.Random(0)
    times = max(1, round(share / (1 - share) * others / max(len(utterances), 1)))
    return [each for _ in range(times) for each in rng.sample(utterances, len(utterances))]


def _report(num_sentences: int, num_samples: int, started: float) -> None:
    seconds, hours = time.perf_counter() - started, num_samples / SAMPLE_RATE / 3600
    print(f"synthesis {seconds:6.1f} s: {num_sentences} sentences, {hours:.1f} h", flush=True)


@cache
def _synthesizer() -> Synthesizer:
    """One library per process."""
    return Synthesizer()


def _make_shard(job: _Job) -> tuple[list[Utterance], npt.NDArray[np.int16]]:
    rng = random.Random(job.seed)
    utterances: list[Utterance] = []
    pieces: list[npt.NDArray[np.int16]] = []
    offset = 0
    spoken = itertools.chain(_speak(rng, job), _make_sounds(job))
    for sentence, edges, block, samples in spoken:
        utterances.append(Utterance(sentence, edges, block, offset, len(samples)))
        pieces.append(samples)
        offset += len(samples)
    return utterances, np.concatenate(pieces)


_Spoken = tuple[Sentence | None, npt.NDArray[np.float32], int, npt.NDArray[np.int16]]


def _speak(rng: random.Random, job: _Job) -> Iterator[_Spoken]:
    for number in range(0, job.num_speech, BLOCK_SIZE):
        grammar = MIXED if rng.random() < _MIXED_SHARE else rng.choice((ENGLISH, MANDARIN))
        if rng.random() < _EVERYDAY_SHARE:
            grammar = rng.choice(EVERYDAY)
        if rng.random() < _DRILL_SHARE:
            grammar = rng.choice(DRILLS)
        voice, english_file = draw_training_voice(grammar.language, rng), rng.choice(ENGLISH_FILES)
        block = job.index * SHARD_SIZE + number
        for _ in range(min(BLOCK_SIZE, job.num_speech - number)):
            sentence = _draw(grammar, rng)
            try:
                waveform, words = speak_sentence(_synthesizer(), sentence, voice, english_file=english_file)
            except EspeakError:  # word events that do not fit, in about one sentence of 10,000
                continue
            if len(waveform) <= LONGEST_S * SAMPLE_RATE:
                edges = np.array([edge[1:] for edge in words], np.float32)
                yield sentence, edges, block, _to_int16(waveform)


def _draw(grammar: Grammar, rng: random.Random) -> Sentence:
    while True:
        sentence = (_names_only(grammar, rng) if rng.random() < _NAME_SHARE else grammar).draw(rng)
        is_kept_back = is_reserved(sentence) if grammar in (*EVERYDAY, *DRILLS) else sentence.is_held_out
        if not is_kept_back:
            return sentence


def _names_only(grammar: Grammar, rng: random.Random) -> Grammar:
    """The grammar's templates with a name, where it has such."""
    templates = tuple(template for template in grammar.templates if "{name}" in template)
    if not templates:
        return grammar
    slots = dict(grammar.slots)
    if grammar is MANDARIN and rng.random() < _PLACEHOLDER_SHARE:
        slots["name"] = _placeholder
    return Grammar(language=grammar.language, templates=templates, slots=slots)


def _placeholder(rng: random.Random) -> Unit:
    name = rng.choice(PLACEHOLDERS)
    return Unit(spoken=name, written=name, plain=name, is_name=True)


def _make_sounds(job: _Job) -> Iterator[_Spoken]:
    generator = np.random.default_rng([job.index, *job.seed.encode()])
    for _ in range(job.num_sounds):
        samples = draw_sound(generator, float(np.exp(generator.uniform(np.log(0.3), np.log(30.0)))))
        yield None, np.zeros((0, 2), np.float32), -1, _to_int16(samples)


def _to_int16(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    peak = max(float(np.abs(waveform).max()), 1e-6)
    return np.round(waveform * (_PEAK / peak)).astype(np.int16)
