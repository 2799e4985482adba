"""The words of texts and their times: what of forced alignment needs no GPU, for many texts at once.

    Texts                -> words (split.py) -> tokens of what is said (tokenizer.py): Targets
    Targets + Emissions  -> when each token is spoken (token_times.py) -> when each word is -> TimedText

Between the two lies the search for the best paths (aligner.py). This file imports no torch: where there are cores for
it, it runs in processes of its own (worker.py).
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..quality import disagreement
from .confidence import LEAST_PROB, WrittenTokens, combined
from .split import WrittenWord, split_words, spoken_form
from .token_times import BoolArray, FloatArray, IntArray, token_times
from .tokenizer import CTCTokenizer

MIN_TOKEN_S = 0.02
MIN_REST_S = 1.0
_MIN_REST_TOKENS = 2
_AFTER_WORD_S = 0.3  # in which the head may still emit a word that has ended, or emits one that begins
# Length of text is counted in bytes of UTF-8, which is about fair across scripts: speakers of English say 14 letters a
# second, speakers of Mandarin 4.5 characters of 3 bytes. A digit or a sign counts like such a syllable.
TYPICAL_BYTES_PER_S = 13.5
_SYLLABLE_BYTES = 3

_LENGTH_OF_BYTE = np.ones(256)
_LENGTH_OF_BYTE[:128] = [1.0 if chr(b).isalpha() or chr(b) == "'" else _SYLLABLE_BYTES for b in range(128)]
_LENGTH_OF_BYTE[ord(" ")] = 0.0

Number = TypeVar("Number", np.int64, np.float64)
Columns: TypeAlias = tuple[list[str], list[float], list[float], list[float]]


class CTCFrames(NamedTuple):
    """What must be known of a CTC head to read its frames."""

    frame_s: float
    first_s: float  # centre of the first frame
    blank_id: int
    vocab_size: int


class Texts(NamedTuple):
    """Of B clips."""

    texts: Sequence[str]  # as they are to be shown
    num_frames: Sequence[int]
    durations_s: Sequence[float]  # no word ends later
    written: Sequence[WrittenTokens | None]  # what the LLM is sure of; None: a word is as sure as the head is
    compare: bool  # each text with what the head hears

    def part(self, share: slice) -> Self:
        return self._replace(
            texts=self.texts[share],
            num_frames=self.num_frames[share],
            durations_s=self.durations_s[share],
            written=self.written[share],
        )


class TargetTokens(NamedTuple):
    """What to look for in B clips."""

    token_ids: IntArray  # (N,) those of the first clip, those of the second, ...
    num_tokens: IntArray  # (B,) 0 where there is nothing to look for


class Emissions(NamedTuple):
    """What the best paths of B clips say of each of their S tokens, and the head of their T frames.

    Of each token: the mean frame of its emission, and the highest probabilities, in those frames, of it and of any.
    """

    of_tokens: npt.NDArray[np.float32]  # (3, B, S)
    frame_log_probs: npt.NDArray[np.float32]  # (B,) mean log-probability per frame of the whole path
    best: npt.NDArray[np.int32]  # (B, T) the likeliest token of each frame, whatever the text

    def part(self, share: slice) -> Self:
        return self._replace(
            of_tokens=self.of_tokens[:, share], frame_log_probs=self.frame_log_probs[share], best=self.best[share]
        )


class TimedText(NamedTuple):
    """See alignment.Alignment; the words column by column, which travel faster so: text, start, end, confidence."""

    words: Columns | None
    reason: str | None
    ctc_text: str | None
    rest_start: float | None
    disagreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """Texts as forced alignment looks for them: N tokens, and where in them each of the W words begins and ends."""

    words: list[list[WrittenWord]]  # of each text
    token_ids: IntArray  # (N,)
    num_tokens: IntArray  # (B,) of each text
    token_lengths: FloatArray  # (N,), see TYPICAL_BYTES_PER_S; above 0
    start_tokens: IntArray  # (W,) the token in which the word begins
    start_fractions: FloatArray  # (W,) how far in that token, [0, 1): a token may hold several words
    end_tokens: IntArray  # (W,) the token in which the word ends
    end_fractions: FloatArray  # (W,), (0, 1]

    @classmethod
    def from_texts(cls, texts: Sequence[str], tokenizer: CTCTokenizer) -> "Targets":
        """Tokens that hold nothing but spaces are left out."""
        words = [split_words(text) for text in texts]
        spoken, places = zip(*map(spoken_form, texts, words), strict=True) if texts else ((), ())
        token_ids = [tokenizer.encode(each) for each in spoken]
        # All texts one after the other: places in their bytes, and from these the lengths before them.
        encoded = [each.encode() for each in spoken]
        length_at = _edges(_LENGTH_OF_BYTE[np.frombuffer(b"".join(encoded), np.uint8)])
        all_ids = np.array(list(itertools.chain.from_iterable(token_ids)), np.int64)
        edges = length_at[_edges(tokenizer.byte_lengths(all_ids))]
        is_kept = edges[1:] > edges[:-1]
        starts, lengths = edges[:-1][is_kept], np.diff(edges)[is_kept]
        first_bytes = np.repeat(_edges(np.array([len(each) for each in encoded], np.int64))[:-1], list(map(len, words)))
        in_text = np.array(list(itertools.chain.from_iterable(places)), np.int64).reshape(-1, 2)
        word_starts, word_ends = length_at[in_text + first_bytes[:, None]].T
        start_tokens = starts.searchsorted(word_starts, side="right") - 1
        end_tokens = starts.searchsorted(word_ends, side="left") - 1
        text_of_token = np.repeat(np.arange(len(texts)), list(map(len, token_ids)))
        return cls(
            words=words,
            token_ids=all_ids[is_kept],
            num_tokens=np.bincount(text_of_token[is_kept], minlength=len(texts)),
            token_lengths=lengths,
            start_tokens=start_tokens,
            start_fractions=(word_starts - starts[start_tokens]) / lengths[start_tokens],
            end_tokens=end_tokens,
            end_fractions=(word_ends - starts[end_tokens]) / lengths[end_tokens],
        )

    @property
    def num_words(self) -> IntArray:
        """(B,) of each text."""
        return np.array([len(words) for words in self.words], np.int64)

    def min_frames(self) -> IntArray:
        """(B,) the fewest frames that can emit each text: one a token, and a blank between two equal neighbours."""
        text_of_token = np.repeat(np.arange(len(self.num_tokens)), self.num_tokens)
        repeats = (self.token_ids[1:] == self.token_ids[:-1]) & (text_of_token[1:] == text_of_token[:-1])
        return self.num_tokens + np.bincount(text_of_token[1:][repeats], minlength=len(self.num_tokens))


class WordTimer:
    """Finds the times of words with one CTC head's vocabulary; asked for Texts and then for their Emissions."""

    def __init__(self, tokenizer: CTCTokenizer, frames: CTCFrames) -> None:
        self._tokenizer = tokenizer
        self._frames = frames
        self._texts: Texts  # the last ones, until their emissions come
        self._targets: Targets
        self._min_frames: IntArray

    def answer(self, question: Texts | Emissions) -> TargetTokens | list[TimedText]:
        """`targets` or `timed`."""
        return self.targets(question) if isinstance(question, Texts) else self.timed(question)

    def targets(self, texts: Texts) -> TargetTokens:
        """What to look for. A text that takes more frames than its clip has is looked for in vain."""
        targets = Targets.from_texts(texts.texts, self._tokenizer)
        self._texts, self._targets, self._min_frames = texts, targets, targets.min_frames()
        num_tokens, is_kept = self._looked_for()
        return TargetTokens(targets.token_ids[is_kept], num_tokens)

    def timed(self, emissions: Emissions) -> list[TimedText]:
        """The words of the last Texts, from what was emitted for them."""
        targets = self._targets
        bounds = _edges(targets.num_words).tolist()
        starts, ends, confidences = (column.tolist() for column in self._words(emissions))
        found = []
        for i, heard in enumerate(self._heard(emissions.best)):
            reason = self._doubt(i, float(emissions.frame_log_probs[i]))
            of_text = slice(bounds[i], bounds[i + 1])
            written_words = [word.text for word in targets.words[i]]
            words = None if reason else (written_words, starts[of_text], ends[of_text], confidences[of_text])
            found.append(self._timed_text(i, words, reason, heard))
        return found

    def _timed_text(self, i: int, words: Columns | None, reason: str | None, heard: "_Heard | None") -> TimedText:
        texts = self._texts
        if words and (written := texts.written[i]) is not None:
            words = (*words[:3], combined(words[0], words[3], written))
        if heard is None:
            return TimedText(words, reason, None, None, None)
        token_ids, times = heard
        rest_start = None
        if words is not None:
            rest_start = _rest_start(words[2], times)
            if rest_start is not None:
                token_ids = token_ids[: bisect.bisect_left(times, rest_start)]
        text = self._tokenizer.decode(token_ids)
        distance = disagreement(texts.texts[i], self._targets.words[i], text) if texts.compare else None
        return TimedText(words, reason, text, rest_start, distance)

    def _words(self, emissions: Emissions) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Starts, ends and confidences of all words (W,); those of texts that do not fit mean nothing."""
        texts, targets = self._texts, self._targets
        frame_s = self._frames.frame_s
        num_tokens, is_kept = self._looked_for()
        in_clip = np.arange(emissions.of_tokens.shape[2]) < num_tokens[:, None]
        lengths = np.ones(in_clip.shape)
        lengths[in_clip] = targets.token_lengths[is_kept]
        centres, *probs = emissions.of_tokens.astype(np.float64)
        onsets, ends = token_times(centres, lengths, num_tokens, 1.0 / (TYPICAL_BYTES_PER_S * frame_s))
        durations = np.array(texts.durations_s)
        onsets, ends = (each * frame_s + self._frames.first_s for each in (onsets, ends))
        rows = (*_settle(onsets, ends, num_tokens, durations), *probs)
        token_starts, token_ends, token_probs, speech_probs = (_flat(row, in_clip, is_kept) for row in rows)
        has_numerals = np.array([word.has_numerals for words in targets.words for word in words], np.bool_)
        confidences = np.where(has_numerals, _means(targets, speech_probs), _means(targets, token_probs))
        clip_ends = durations.repeat(targets.num_words)
        word_starts = _within(token_starts, token_ends, targets.start_tokens, targets.start_fractions)
        word_ends = _within(token_starts, token_ends, targets.end_tokens, targets.end_fractions)
        return word_starts, np.minimum(word_ends, clip_ends), confidences

    def _looked_for(self) -> tuple[IntArray, BoolArray]:
        """Tokens of each text (B,), and which of all tokens (N,): none of a text that does not fit."""
        targets = self._targets
        fits = self._min_frames <= np.array(self._texts.num_frames, np.int64)
        return np.where(fits, targets.num_tokens, 0), fits.repeat(targets.num_tokens)

    def _heard(self, best: npt.NDArray[np.int32]) -> list["_Heard | None"]:
        """What the head makes of each clip on its own, None of a clip without frames."""
        num_frames = self._texts.num_frames
        frame_s, first_s = self._frames.frame_s, self._frames.first_s
        collapsed = collapse(best, num_frames, self._frames.blank_id)
        return [
            (token_ids, [frame * frame_s + first_s for frame in begun]) if count else None
            for (token_ids, begun), count in zip(collapsed, num_frames, strict=True)
        ]

    def _doubt(self, i: int, frame_log_prob: float) -> str | None:
        """Why a text has no times, if so."""
        frames, num_frames = self._frames, self._texts.num_frames[i]
        if self._min_frames[i] > num_frames:
            needed = f"{self._min_frames[i]} frames of {frames.frame_s * 1000:.0f} ms"
            return f"the text takes at least {needed}, the audio has {num_frames}"
        if not self._targets.num_tokens[i]:
            return None
        if not math.isfinite(frame_log_prob):
            return "the CTC head gave probabilities that are not finite numbers"
        chance = -math.log(frames.vocab_size)
        if frame_log_prob < chance / 2:
            return (
                "the CTC head does not hear this text in the audio: the mean log-probability of a frame is "
                f"{frame_log_prob:.1f}, nearer to chance ({chance:.1f}) than to certainty (0)"
            )
        return None


_Heard: TypeAlias = tuple[list[int], list[float]]  # tokens, and when the head begins to emit each


def collapse(
    best: npt.NDArray[np.integer], num_frames: Sequence[int], blank_id: int
) -> list[tuple[list[int], list[int]]]:
    """A token for each frame of B padded clips (B, T) -> the tokens of each clip, equal neighbours merged and blanks
    dropped, and the frame in which each begins.
    """
    starts = best != blank_id
    starts[:, 1:] &= best[:, 1:] != best[:, :-1]
    starts &= np.arange(best.shape[1]) < np.array(num_frames, np.int64)[:, None]
    clips, frames = starts.nonzero()
    bounds = clips.searchsorted(range(len(best) + 1)).tolist()
    kept, begun = best[clips, frames].tolist(), frames.tolist()
    return [(kept[first:end], begun[first:end]) for first, end in itertools.pairwise(bounds)]


def _edges(lengths: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Where each of some neighbours begins, and where the last one ends."""
    edges = np.zeros(len(lengths) + 1, lengths.dtype)
    lengths.cumsum(out=edges[1:])
    return edges


def _flat(padded: FloatArray, in_clip: BoolArray, is_kept: BoolArray) -> FloatArray:
    """(B, S) -> (N,); what was not looked for is 0."""
    flat = np.zeros(len(is_kept))
    flat[is_kept] = padded[in_clip]
    return flat


def _within(starts: FloatArray, ends: FloatArray, tokens: IntArray, fractions: FloatArray) -> FloatArray:
    """Seconds of places in tokens."""
    # The end of a token has to come out as it is: next to half a millisecond it must round as the next one's start.
    seconds: FloatArray = (1.0 - fractions) * starts[tokens] + fractions * ends[tokens]
    return seconds.round(3)


def _means(targets: Targets, probs: FloatArray) -> FloatArray:
    """(N,) -> (W,): geometric, over the tokens of each word."""
    first, end = targets.start_tokens, targets.end_tokens + 1
    # Sums of float32 may put a probability a little above 1; an end may lie behind the last token.
    logs = np.append(np.log(probs.clip(LEAST_PROB, 1.0)), 0.0)
    totals = np.add.reduceat(logs, np.stack([first, end], axis=1).ravel())[::2] if len(first) else np.zeros(0)
    means: FloatArray = np.exp(totals / (end - first))
    return means


def _rest_start(ends: Sequence[float], times: Sequence[float]) -> float | None:
    """Where what follows the words begins, s: from when the head emits its tokens. See Alignment.

    Speech without any text has to follow a second of something else: that may be what the text was lost for.
    """
    end = ends[-1] if ends else 0.0
    rest = times[bisect.bisect_right(times, end + _AFTER_WORD_S) :]
    if len(rest) < _MIN_REST_TOKENS or rest[-1] < end + MIN_REST_S:
        return None
    start = max(end, rest[0] - _AFTER_WORD_S)
    return start if ends or start >= MIN_REST_S else None


def _settle(
    starts: FloatArray, ends: FloatArray, num_tokens: IntArray, durations: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Move times (B, S), in seconds, as little as rising order, the clip's bounds and the least duration ask for."""
    least = np.minimum(durations / num_tokens.clip(min=1), MIN_TOKEN_S)[:, None]
    position = np.arange(starts.shape[1])
    starts = np.maximum.accumulate(starts.clip(min=0.0) - position * least, axis=1) + position * least
    starts = np.minimum(starts, durations[:, None] - (num_tokens[:, None] - position) * least)
    is_last = position == num_tokens[:, None] - 1
    following = np.where(is_last, durations[:, None], np.roll(starts, -1, axis=1))
    return starts, np.minimum(np.maximum(ends, starts + least), following)
