"""Recipe -> clip: sentences spoken one after the other with silence around them, and when each word is said."""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from espeak import SAMPLE_RATE, EspeakError, FloatArray, Speech, Synthesizer, Voice
from grammar import Language, Sentence
from mandarin import read_characters

PAUSE_LEVEL = 1e-3  # relative to the peak; what is quieter at the end of an utterance is espeak-ng's own pause

Words = list[tuple[str, float, float]]  # word or character, start and end in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a clip's samples and what the model is asked and should answer."""

    key: str
    sentences: tuple[Sentence, ...]  # none: a clip of silence
    voice: Voice
    hint: Language | None = None  # language named in the prompt
    hotwords: tuple[str, ...] = ()
    itn: bool = True
    use_alternative: bool = False  # the hotwords ask for the second spelling
    silence_s: tuple[float, ...] = (0.3, 0.3)  # before, between and after the sentences
    peak: float = 0.5
    noise_snr_db: float | None = None
    audio_of: str | None = None  # key of the clip whose file this one shares: same samples, another prompt

    @property
    def stem(self) -> str:
        """Name of the audio file without suffix."""
        return self.audio_of or self.key

    @property
    def text(self) -> str:
        """What the model should write."""
        texts = [sentence.text(itn=self.itn, use_alternative=self.use_alternative) for sentence in self.sentences]
        return self._joiner.join(texts)

    @property
    def spoken(self) -> str:
        """The words as they are said: lower case, no punctuation."""
        return self._joiner.join(sentence.spoken for sentence in self.sentences)

    @property
    def _joiner(self) -> str:
        return " " if self.sentences and self.sentences[0].language == "英文" else ""


def render(synthesizer: Synthesizer, recipe: Recipe) -> tuple[FloatArray, Words]:
    """The clip (N,) float32 at 16 kHz and its words, times from the start of the clip."""
    pieces: list[FloatArray] = [_silence(recipe.silence_s[0])]
    words: Words = []
    for sentence, gap_s in zip(recipe.sentences, recipe.silence_s[1:], strict=True):
        offset_s = sum(map(len, pieces)) / SAMPLE_RATE
        waveform, sentence_words = speak_sentence(synthesizer, sentence, recipe.voice)
        words += [(word, offset_s + start, offset_s + end) for word, start, end in sentence_words]
        pieces += [waveform / np.abs(waveform).max(), _silence(gap_s)]
    clip = np.concatenate(pieces) * np.float32(recipe.peak)
    if recipe.noise_snr_db is not None:
        clip = add_noise(clip, recipe.noise_snr_db, seed=zlib.crc32(recipe.stem.encode()))
    return clip, words


def speak_sentence(
    synthesizer: Synthesizer, sentence: Sentence, voice: Voice, *, english_file: str = "gmw/en-US"
) -> tuple[FloatArray, Words]:
    """Waveform of one sentence without espeak-ng's final pause, and its words.

    English words in a Mandarin sentence are spoken by the same variant of the voice `english_file`.

    A word ends where the next begins. espeak-ng runs some short words together ("in the") and reports only the first:
    their common stretch is divided by their numbers of letters.
    """
    pieces: list[FloatArray] = []
    words: Words = []
    for language, run in _runs(sentence):
        tokens = run if language == "英文" else read_characters("".join(run))
        accent = voice if language == sentence.language else replace(voice, file=english_file)
        speech = synthesizer.speak(" ".join(tokens), accent)
        waveform = trim_end(speech.waveform)
        offset_s = sum(map(len, pieces)) / SAMPLE_RATE
        edges = word_edges(tokens, speech, len(waveform) / SAMPLE_RATE)
        words += [(word, offset_s + start, offset_s + end) for word, (start, end) in zip(run, edges, strict=True)]
        pieces.append(waveform)
    return np.concatenate(pieces), words


def _runs(sentence: Sentence) -> list[tuple[Language, tuple[str, ...]]]:
    """The sentence's words, cut where the language changes."""
    if sentence.language == "英文":
        return [("英文", sentence.words)]
    runs = itertools.groupby(sentence.words, key=str.isascii)
    return [("英文" if is_english else "中文", tuple(run)) for is_english, run in runs]


def trim_end(waveform: FloatArray) -> FloatArray:
    """Cut what is quieter than PAUSE_LEVEL of the peak after the last louder sample."""
    loud = np.flatnonzero(np.abs(waveform) > PAUSE_LEVEL * np.abs(waveform).max())
    return waveform[: loud[-1] + 1]


def word_edges(tokens: Sequence[str], speech: Speech, duration_s: float) -> list[tuple[float, float]]:
    """(start, end) in seconds of each token of the text that `speech` spoke, tokens joined by single spaces."""
    positions = list(itertools.accumulate((len(token) + 1 for token in tokens[:-1]), initial=0))
    reported = dict(speech.word_starts)
    if 0 not in reported or not reported.keys() <= set(positions):
        raise EspeakError(f"word events {speech.word_starts} do not fit the words of {' '.join(tokens)!r}")
    anchors = [*(index for index, position in enumerate(positions) if position in reported), len(tokens)]
    times = [*(reported[positions[index]] for index in anchors[:-1]), duration_s]
    starts: list[float] = []
    for (first, last), (begin, end) in zip(itertools.pairwise(anchors), itertools.pairwise(times), strict=True):
        letters = [len(token) for token in tokens[first:last]]
        before = itertools.accumulate(letters[:-1], initial=0)
        starts += [begin + (end - begin) * count / sum(letters) for count in before]
    return list(itertools.pairwise([*starts, duration_s]))


def add_noise(clip: FloatArray, snr_db: float, *, seed: int) -> FloatArray:
    """The clip under white noise, `snr_db` below the power of its non-zero samples; the peak stays within [-1, 1]."""
    power = float(np.mean(np.square(clip[clip != 0])))
    noise = np.random.default_rng(seed).standard_normal(len(clip)).astype(np.float32)
    noisy = clip + noise * np.float32(np.sqrt(power / 10 ** (snr_db / 10)))
    loudest = float(np.abs(noisy).max())
    return noisy if loudest <= 1 else (noisy / loudest).astype(np.float32)


def _silence(seconds: float) -> FloatArray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)
