"""The words of texts and their times: the part of forced alignment that runs on the CPU, for many texts at once.

    Texts                -> words (split.py) -> tokens of their spoken form (tokenizer.py): Targets
    Targets + Emissions  -> times of the tokens (token_times.py) -> times of the words -> TimedText

Between the two steps, aligner.py searches the best paths. This file imports no torch, so that it can run in light
worker processes (worker.py).
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
_AFTER_WORD_S = 0.3  # greatest delay of an emission after the start of its word, or after its end
# The length of text is counted in bytes of UTF-8, which is about equal across scripts: English has 14 letters per
# second of speech, and Mandarin 4.5 characters of 3 bytes. A digit or a sign counts like such a character.
TYPICAL_BYTES_PER_S = 13.5
_SYLLABLE_BYTES = 3

_LENGTH_OF_BYTE = np.ones(256)
_LENGTH_OF_BYTE[:128] = [1.0 if chr(b).isalpha() or chr(b) == "'" else _SYLLABLE_BYTES for b in range(128)]
_LENGTH_OF_BYTE[ord(" ")] = 0.0

Number = TypeVar("Number", np.int64, np.float64)
Columns: TypeAlias = tuple[list[str], list[float], list[float], list[float]]


class CTCFrames(NamedTuple):
    """The properties of a CTC head that are needed to interpret its frames."""

    frame_s: float
    first_s: float  # time of the first frame's centre
    blank_id: int
    vocab_size: int


class Texts(NamedTuple):
    """The texts of B clips."""

    texts: Sequence[str]  # as users see them
    num_frames: Sequence[int]
    durations_s: Sequence[float]  # no word ends later
    written: Sequence[WrittenTokens | None]  # the LLM's tokens; None: the confidence is the CTC head's alone
    compare: bool  # whether to compare each text with the head's greedy text

    def part(self, share: slice) -> Self:
        return self._replace(
            texts=self.texts[share],
            num_frames=self.num_frames[share],
            durations_s=self.durations_s[share],
            written=self.written[share],
        )


class TargetTokens(NamedTuple):
    """The tokens to align in B clips."""

    token_ids: IntArray  # (N,) the tokens of the first clip, then of the second, ...
    num_tokens: IntArray  # (B,) 0 for a clip with nothing to align


class Emissions(NamedTuple):
    """The best paths of B clips, reduced to their S tokens, and the head's greedy tokens of their T frames.

    `of_tokens` has three values for each token: the mean frame of its emission, the highest probability of the token in
    those frames, and the highest probability of any token other than blank in them.
    """

    of_tokens: npt.NDArray[np.float32]  # (3, B, S)
    frame_log_probs: npt.NDArray[np.float32]  # (B,) mean log-probability per frame of the whole path
    best: npt.NDArray[np.int32]  # (B, T) the likeliest token of each frame, independent of the text

    def part(self, share: slice) -> Self:
        return self._replace(
            of_tokens=self.of_tokens[:, share], frame_log_probs=self.frame_log_probs[share], best=self.best[share]
        )


class TimedText(NamedTuple):
    """The fields of aligner.Alignment, with the words as columns, which are faster to send between processes."""

    words: Columns | None  # text, start, end, confidence
    reason: str | None
    ctc_text: str | None
    rest_start: float | None
    disagreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """B texts as N tokens of their spoken form, with the position of each of the W words in these tokens."""

    words: list[list[WrittenWord]]  # of each text
    token_ids: IntArray  # (N,)
    num_tokens: IntArray  # (B,) of each text
    token_lengths: FloatArray  # (N,) length of text in bytes, see TYPICAL_BYTES_PER_S; above 0
    start_tokens: IntArray  # (W,) the token in which the word begins
    start_fractions: FloatArray  # (W,) in [0, 1), where in that token: a token may hold several words
    end_tokens: IntArray  # (W,) the token in which the word ends
    end_fractions: FloatArray  # (W,) in (0, 1]

    @classmethod
    def from_texts(cls, texts: Sequence[str], tokenizer: CTCTokenizer) -> "Targets":
        """Split and tokenise texts. Tokens that consist of spaces are left out."""
        words = [split_words(text) for text in texts]
        spoken, places = zip(*map(spoken_form, texts, words), strict=True) if texts else ((), ())
        token_ids = [tokenizer.encode(each) for each in spoken]
        # The texts are concatenated. `length_at` maps a byte position to the length of the text before it.
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
        """(B,) number of words in each text."""
        return np.array([len(words) for words in self.words], np.int64)

    def min_frames(self) -> IntArray:
        """(B,) the fewest frames that can emit each text: one per token, and a blank between two equal neighbours."""
        text_of_token = np.repeat(np.arange(len(self.num_tokens)), self.num_tokens)
        repeats = (self.token_ids[1:] == self.token_ids[:-1]) & (text_of_token[1:] == text_of_token[:-1])
        return self.num_tokens + np.bincount(text_of_token[1:][repeats], minlength=len(self.num_tokens))


class WordTimer:
    """Finds word times with one CTC head's vocabulary: call `targets`, then `timed` with their emissions."""

    def __init__(self, tokenizer: CTCTokenizer, frames: CTCFrames) -> None:
        self._tokenizer = tokenizer
        self._frames = frames
        self._texts: Texts  # those of the last call of targets()
        self._targets: Targets
        self._min_frames: IntArray

    def __reduce__(self) -> tuple[type[Self], tuple[CTCTokenizer, CTCFrames]]:
        """Another process gets it without texts, which another thread may be changing."""
        return type(self), (self._tokenizer, self._frames)

    def answer(self, question: Texts | Emissions) -> TargetTokens | list[TimedText]:
        """Call `targets` or `timed`, by the type of the argument."""
        return self.targets(question) if isinstance(question, Texts) else self.timed(question)

    def targets(self, texts: Texts) -> TargetTokens:
        """The tokens to align. A text that needs more frames than its clip has cannot be aligned and gets no tokens."""
        targets = Targets.from_texts(texts.texts, self._tokenizer)
        self._texts, self._targets, self._min_frames = texts, targets, targets.min_frames()
        num_tokens, is_kept = self._looked_for()
        return TargetTokens(targets.token_ids[is_kept], num_tokens)

    def timed(self, emissions: Emissions) -> list[TimedText]:
        """Time the words of the last Texts from their emissions."""
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
        """Starts (s), ends (s) and confidences of all words, (W,) each; undefined for texts that cannot be aligned."""
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
        """(B,) number of tokens to align in each text, and (N,) whether each token is one of them.

        A text that needs more frames than its clip has gets none.
        """
        targets = self._targets
        fits = self._min_frames <= np.array(self._texts.num_frames, np.int64)
        return np.where(fits, targets.num_tokens, 0), fits.repeat(targets.num_tokens)

    def _heard(self, best: npt.NDArray[np.int32]) -> list["_Heard | None"]:
        """The head's greedy tokens of each clip with the times (s) of their first frames; None without frames."""
        num_frames = self._texts.num_frames
        frame_s, first_s = self._frames.frame_s, self._frames.first_s
        collapsed = collapse(best, num_frames, self._frames.blank_id)
        return [
            (token_ids, [frame * frame_s + first_s for frame in begun]) if count else None
            for (token_ids, begun), count in zip(collapsed, num_frames, strict=True)
        ]

    def _doubt(self, i: int, frame_log_prob: float) -> str | None:
        """Why a text has no times, or None if it has."""
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


_Heard: TypeAlias = tuple[list[int], list[float]]  # tokens, and the time (s) of the first frame that emits each


def collapse(
    best: npt.NDArray[np.integer], num_frames: Sequence[int], blank_id: int
) -> list[tuple[list[int], list[int]]]:
    """CTC's collapse: merge equal neighbours and drop blanks.

    Args:
        best: (B, T) a token for each frame of B padded clips.
        num_frames: of each clip, without the padding.
        blank_id: the token to drop.

    Returns:
        For each clip its tokens, and the frame in which each begins.
    """
    starts = best != blank_id
    starts[:, 1:] &= best[:, 1:] != best[:, :-1]
    starts &= np.arange(best.shape[1]) < np.array(num_frames, np.int64)[:, None]
    clips, frames = starts.nonzero()
    bounds = clips.searchsorted(range(len(best) + 1)).tolist()
    kept, begun = best[clips, frames].tolist(), frames.tolist()
    return [(kept[first:end], begun[first:end]) for first, end in itertools.pairwise(bounds)]


def _edges(lengths: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """(N,) lengths of adjacent parts -> (N + 1,) their edges, from 0 to the sum."""
    edges = np.zeros(len(lengths) + 1, lengths.dtype)
    lengths.cumsum(out=edges[1:])
    return edges


def _flat(padded: FloatArray, in_clip: BoolArray, is_kept: BoolArray) -> FloatArray:
    """(B, S) -> (N,); tokens that were not aligned get 0."""
    flat = np.zeros(len(is_kept))
    flat[is_kept] = padded[in_clip]
    return flat


def _within(starts: FloatArray, ends: FloatArray, tokens: IntArray, fractions: FloatArray) -> FloatArray:
    """Times (s) of positions inside tokens: token indices and fractions, (W,) each -> (W,), rounded to 1 ms."""
    # For fraction 1 the formula must return `ends` exactly, so that it rounds like the start of the next token.
    seconds: FloatArray = (1.0 - fractions) * starts[tokens] + fractions * ends[tokens]
    return seconds.round(3)


def _means(targets: Targets, probs: FloatArray) -> FloatArray:
    """The geometric mean over the tokens of each word, (N,) -> (W,)."""
    first, end = targets.start_tokens, targets.end_tokens + 1
    # Rounding in float32 may put a probability slightly above 1. The appended 0 is for an `end` behind the last token.
    logs = np.append(np.log(probs.clip(LEAST_PROB, 1.0)), 0.0)
    totals = np.add.reduceat(logs, np.stack([first, end], axis=1).ravel())[::2] if len(first) else np.zeros(0)
    means: FloatArray = np.exp(totals / (end - first))
    return means


def _rest_start(ends: Sequence[float], times: Sequence[float]) -> float | None:
    """Start (s) of the speech that the text lacks at its end, or None if it lacks nothing; see Alignment.

    Args:
        ends: ends of the words (s).
        times: when the head emits its greedy tokens (s).

    If the text is empty, the speech must begin at MIN_REST_S or later: what precedes it may be the reason why the LLM
    wrote no text.
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
    """Put the tokens' starts and ends (B, S), in seconds, in order and inside the clip, with the least changes.

    Each token lasts at least MIN_TOKEN_S, or an equal share of a clip that is too short for that.
    """
    least = np.minimum(durations / num_tokens.clip(min=1), MIN_TOKEN_S)[:, None]
    position = np.arange(starts.shape[1])
    starts = np.maximum.accumulate(starts.clip(min=0.0) - position * least, axis=1) + position * least
    starts = np.minimum(starts, durations[:, None] - (num_tokens[:, None] - position) * least)
    is_last = position == num_tokens[:, None] - 1
    following = np.where(is_last, durations[:, None], np.roll(starts, -1, axis=1))
    return starts, np.minimum(np.maximum(ends, starts + least), following)
