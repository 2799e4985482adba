"""Word times: when each word of a transcript was spoken, by CTC forced alignment.

    hidden states of the CTC head + text  ->  Alignment: Words with start, end and confidence, or the reason why none,
                                              and the text that the head hears by itself

text -> words (words.py) -> tokens of what is said (ctc_tokenizer.py) -> in which frames the head emits them
(viterbi.py) -> when they are spoken (token_times.py) -> words again.

- `Word.text` is the word as the transcript writes it, without punctuation; words.py says how to rebuild the text.
- Words do not overlap, lie inside the clip and last at least 20 ms (or an equal share of a clip too short for that).
- `Word.confidence` is the geometric mean, over the word's tokens, of the highest probability that the head gives the
  token in the frames where it is emitted. What the text writes with digits or signs ("20%") the head may spell out, so
  for such words it is the highest probability that anything at all is said there.
- It is all words or none. A text without words has none and needs no reason.
- Where the head goes on for MIN_REST_S after the last word, the text lacks its end: that rest begins at `rest_start`.

Frame t is built from seven 25 ms windows around the one that begins at t * 60 ms: its centre is 12.5 ms later.
"""

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..encoders.ctc import CTCHead, CTCScores
from ..encoders.fbank import SAMPLE_RATE, WINDOW_SAMPLES
from ..encoders.upload import from_device, to_device
from .ctc_tokenizer import CTCTokenizer
from .errors import CheckpointError
from .manifest import FrameClock
from .token_times import token_times
from .transcript import Word
from .viterbi import BLANK, best_paths, min_frames, path_log_probs
from .waveform import Waveform
from .words import WrittenWord, split_words, spoken_form

HALF_WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE / 2
MIN_TOKEN_S = 0.02
MIN_REST_S = 1.0
_MIN_REST_TOKENS = 2
_AFTER_WORD_S = 0.3  # in which the head may still emit a word that has ended, or emits one that begins
# Length of text is counted in bytes of UTF-8, which is about fair across scripts: speakers of English say 14 letters a
# second, speakers of Mandarin 4.5 characters of 3 bytes. A digit or a sign counts like such a syllable.
TYPICAL_BYTES_PER_S = 13.5
_SYLLABLE_BYTES = 3
_MAX_CELLS = 4_000_000  # clips x frames x states searched at once: about 80 MB
_LEAST_WARM, _MOST_WARM = 15, 240  # tokens of the texts that are aligned while a model loads
_MAX_LISTENED = 64  # clips without words, at once: 70 MB where they last 30 s

_LEAST_PROB = 1e-12  # float32 sums may also put a probability a little above 1

_LENGTH_OF_BYTE = np.ones(256)
_LENGTH_OF_BYTE[:128] = [1.0 if chr(b).isalpha() or chr(b) == "'" else _SYLLABLE_BYTES for b in range(128)]
_LENGTH_OF_BYTE[ord(" ")] = 0.0

_Heard: TypeAlias = tuple[list[int], list[int]]  # see CTCHead.collapse
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alignment:
    """The words of one text in order, or None and the reason."""

    words: tuple[Word, ...] | None
    reason: str | None = None
    heard: str | None = None  # what the CTC head alone makes of the audio: spoken form, no marks; None: nothing asked
    rest_start: float | None = None  # s, of speech that follows the text and is no part of it; `heard` ends before it


class TextAligner(Protocol):
    """Times words without a family's help, from the audio itself."""

    def align_words(
        self, waveforms: Sequence[Waveform], texts: Sequence[str], languages: Sequence[str | None]
    ) -> list[Alignment]:
        """(N,) float32 at 16 kHz, what is said in it, and in which language -> its words, or why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AlignmentTarget:
    """A text as forced alignment looks for it: tokens, and where in them each of its W words begins and ends."""

    words: list[WrittenWord]
    token_ids: list[int]
    token_lengths: FloatArray  # (S,), see TYPICAL_BYTES_PER_S; above 0
    start_tokens: IntArray  # (W,) the token in which the word begins
    start_fractions: FloatArray  # (W,) how far in that token, [0, 1): a token may hold several words
    end_tokens: IntArray  # (W,) the token in which the word ends
    end_fractions: FloatArray  # (W,), (0, 1]

    @classmethod
    def from_text(cls, text: str, tokenizer: CTCTokenizer) -> "AlignmentTarget":
        """Tokens that hold nothing but spaces are left out."""
        words = split_words(text)
        spoken, places = spoken_form(text, words)
        token_ids = tokenizer.encode(spoken)
        # Places in the text, from bytes to lengths.
        length_at = np.concatenate([[0.0], _LENGTH_OF_BYTE[np.frombuffer(spoken.encode(), np.uint8)].cumsum()])
        edges = length_at[np.cumsum([0, *tokenizer.byte_lengths(token_ids)])]
        is_kept = edges[1:] > edges[:-1]
        starts, lengths = edges[:-1][is_kept], np.diff(edges)[is_kept]
        word_starts, word_ends = length_at[np.array(places, np.int64).reshape(-1, 2)].T
        start_tokens = starts.searchsorted(word_starts, side="right") - 1
        end_tokens = starts.searchsorted(word_ends, side="left") - 1
        return cls(
            words=words,
            token_ids=[token_id for token_id, kept in zip(token_ids, is_kept, strict=True) if kept],
            token_lengths=lengths,
            start_tokens=start_tokens,
            start_fractions=(word_starts - starts[start_tokens]) / lengths[start_tokens],
            end_tokens=end_tokens,
            end_fractions=(word_ends - starts[end_tokens]) / lengths[end_tokens],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """One clip that can be aligned."""

    index: int  # in the caller's order
    hidden: Tensor  # (T, D)
    target: AlignmentTarget
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Emissions:
    """What the best paths of B clips say of each of their S tokens, and the head of their T frames; on its device.

    Of each token: the mean frame of its emission, and the highest probabilities, in those frames, of it and of any.
    """

    of_tokens: Tensor  # (3, B, S) float32
    frame_log_probs: Tensor  # (B,) mean log-probability per frame of the whole path
    best: Tensor  # (B, T) the likeliest token of each frame, whatever the text

    @classmethod
    def joined(cls, parts: Sequence["_Emissions"]) -> "_Emissions":
        """Those of several batches; tokens and frames that a clip lacks are zeros."""
        return cls(
            of_tokens=_cat_padded([part.of_tokens for part in parts], dim=1),
            frame_log_probs=torch.cat([part.frame_log_probs for part in parts]),
            best=_cat_padded([part.best for part in parts], dim=0),
        )


class WordAligner:
    """Finds word times with one CTC head."""

    def __init__(self, tokenizer: CTCTokenizer, head: CTCHead, clock: FrameClock) -> None:
        """Raises CheckpointError if tokenizer and head do not belong together."""
        if len(tokenizer) > head.config.blank_id:
            raise CheckpointError(
                f"the CTC vocabulary has {len(tokenizer)} tokens, but the head's blank is token "
                f"{head.config.blank_id}; it must come after them"
            )
        self._tokenizer = tokenizer
        self._head = head
        self._clock = clock
        # Small steps that the CPU waits for must not queue behind the batch that stage 1 is at work on.
        device = next(head.parameters()).device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def warm_up(self) -> None:
        """Compile what a GPU runs for texts of up to _MOST_WARM tokens, so that no request waits for it."""
        weight = self._head.ctc.ctc_lo.weight
        num_tokens = _LEAST_WARM
        while num_tokens <= _MOST_WARM:  # each twice as many as the last: the search is compiled for powers of two
            with torch.cuda.stream(self._stream):
                hidden = weight.new_zeros(2 * num_tokens, weight.shape[1])
            self.align([hidden], [" ".join("a" * num_tokens)], [len(hidden) * self._clock.frame_s])
            num_tokens *= 2

    @torch.inference_mode()
    def align(self, hidden: Sequence[Tensor], texts: Sequence[str], durations: Sequence[float]) -> list[Alignment]:
        """Times of the words of many clips, in the clips' order.

        Args:
            hidden: per clip (T, D), what `CTCHead.hidden` gives for the clip's own frames; all on one device. On a GPU
                they must have been computed, not only queued: `EncodedBatch.utterances` waits for that.
            texts: what was said in each clip, as it is to be shown.
            durations: seconds of audio in each clip; no word ends later.
        """
        alignments = [Alignment(words=())] * len(texts)
        tasks: list[_Task] = []
        others: list[int] = []  # clips without anything to align
        for i, (clip, text, duration_s) in enumerate(zip(hidden, texts, durations, strict=True)):
            target = AlignmentTarget.from_text(text, self._tokenizer)
            needed = min_frames(target.token_ids)
            if needed > len(clip):
                frames = f"{needed} frames of {self._clock.frame_s * 1000:.0f} ms"
                alignments[i] = Alignment(
                    words=None, reason=f"the text takes at least {frames}, the audio has {len(clip)}"
                )
                others.append(i)
            elif not target.words:
                others.append(i)
            else:
                tasks.append(_Task(index=i, hidden=clip, target=target, duration_s=duration_s))
        others = [i for i in others if len(hidden[i])]
        with torch.cuda.stream(self._stream):
            batches = list(_batches(tasks))
            timed = [task for batch in batches for task in batch]
            for task, alignment in zip(timed, self._align(timed, [self._emissions(b) for b in batches]), strict=True):
                alignments[task.index] = alignment
            for i, heard in zip(others, self._listen([hidden[i] for i in others]), strict=True):
                alignments[i] = self._with_heard(alignments[i], heard)
        return alignments

    def _listen(self, hidden: Sequence[Tensor]) -> list[_Heard]:
        """What the head makes of clips on its own."""
        parts = (hidden[start : start + _MAX_LISTENED] for start in range(0, len(hidden), _MAX_LISTENED))
        return [heard for part in parts for heard in self._head.greedy(part)]

    def _with_heard(self, alignment: Alignment, heard: _Heard) -> Alignment:
        """The alignment, and what the head hears, up to where the text ends too early."""
        token_ids, frames = heard
        frame_s = self._clock.frame_s
        times = [frame * frame_s + HALF_WINDOW_S for frame in frames]
        rest_start = None if alignment.words is None else _rest_start(alignment.words, times)
        if rest_start is not None:
            token_ids = token_ids[: bisect.bisect_left(times, rest_start)]
        return replace(alignment, heard=self._tokenizer.decode(token_ids), rest_start=rest_start)

    def _align(self, tasks: Sequence[_Task], parts: Sequence[_Emissions]) -> list[Alignment]:
        if not tasks:
            return []
        emissions = _Emissions.joined(parts)
        # Here the CPU waits for the device, once for all batches and all that they give.
        of_tokens, frame_log_probs, best = from_device(emissions.of_tokens, emissions.frame_log_probs, emissions.best)
        centres, *probs = of_tokens.double()
        log_probs = frame_log_probs.tolist()
        heard = self._head.collapse(best, torch.tensor([len(task.hidden) for task in tasks]))
        num_tokens = torch.tensor([len(task.target.token_ids) for task in tasks])
        lengths = pad_sequence([torch.from_numpy(task.target.token_lengths) for task in tasks], batch_first=True)
        typical_rate = 1.0 / (TYPICAL_BYTES_PER_S * self._clock.frame_s)
        onsets, ends = token_times(centres, lengths, num_tokens, typical_rate)
        durations = torch.tensor([task.duration_s for task in tasks], dtype=torch.float64)
        starts, ends = _settle(self._seconds(onsets), self._seconds(ends), num_tokens, durations)
        rows = (each.numpy() for each in (starts, ends, *probs))
        alignments = []
        for task, heard_here, log_prob, *row in zip(tasks, heard, log_probs, *rows, strict=True):
            reason = self._doubt(log_prob)
            words = None if reason else _timed_words(task, *row)
            alignments.append(self._with_heard(Alignment(words, reason), heard_here))
        return alignments

    def _emissions(self, batch: Sequence[_Task]) -> _Emissions:
        """What the best paths of the texts emit, and what the head hears whatever the texts; on a GPU only queued."""
        hidden, token_ids = [task.hidden for task in batch], [task.target.token_ids for task in batch]
        lens = [torch.tensor([len(clip) for clip in clips]) for clips in (hidden, token_ids)]
        columns, targets, frame_lens, target_lens = (
            to_device(each, hidden[0].device)
            for each in (*_columns_and_targets(token_ids, self._head.config.blank_id), *lens)
        )
        scores = self._head.scores(hidden, columns)
        states = best_paths(scores.emissions, targets, frame_lens, target_lens)
        return _read_paths(scores, targets, states, frame_lens)

    def _seconds(self, frames: Tensor) -> Tensor:
        return frames * self._clock.frame_s + HALF_WINDOW_S

    def _doubt(self, frame_log_prob: float) -> str | None:
        """Why a path with this mean log-probability per frame says nothing, if so."""
        if not math.isfinite(frame_log_prob):
            return "the CTC head gave probabilities that are not finite numbers"
        chance = -math.log(self._head.config.vocab_size)
        if frame_log_prob < chance / 2:
            return (
                "the CTC head does not hear this text in the audio: the mean log-probability of a frame is "
                f"{frame_log_prob:.1f}, nearer to chance ({chance:.1f}) than to certainty (0)"
            )
        return None


def _batches(tasks: Sequence[_Task]) -> Iterator[list[_Task]]:
    """Clips of similar length together, as many as memory allows: a GPU takes longer to be told than to pad."""
    batch: list[_Task] = []
    most_states = 0
    for task in sorted(tasks, key=lambda task: -len(task.hidden)):
        most_states = max(most_states, 2 * len(task.target.token_ids) + 1)
        if batch and (len(batch) + 1) * len(batch[0].hidden) * most_states > _MAX_CELLS:
            yield batch
            batch, most_states = [], 2 * len(task.target.token_ids) + 1
        batch.append(task)
    if batch:
        yield batch


def _columns_and_targets(token_ids: Sequence[Sequence[int]], blank_id: int) -> tuple[Tensor, Tensor]:
    """Per clip the tokens that alignment looks at, blank first: (B, 1 + S); and its targets among them: (B, S).

    Neighbours that are equal are one target twice, so that a search sees that a blank lies between them.
    """
    columns = pad_sequence([torch.tensor([blank_id, *clip]) for clip in token_ids], batch_first=True)
    is_new = columns[:, 1:] != columns[:, :-1]
    targets = torch.where(is_new, torch.arange(1, columns.shape[1]), 1).cummax(1).values
    return columns, targets


def _read_paths(scores: CTCScores, targets: Tensor, states: Tensor, frame_lens: Tensor) -> _Emissions:
    emissions = scores.emissions
    num_clips, num_tokens = targets.shape
    log_probs = path_log_probs(emissions, targets, states)
    # Frames that emit blank, or are padding, go to one token more.
    token = torch.where(states % 2 == 1, states // 2, num_tokens)
    frames = torch.arange(states.shape[1], dtype=torch.float32, device=states.device).expand(num_clips, -1)
    nothing = emissions.new_zeros(num_clips, num_tokens + 1)
    num_frames = nothing.scatter_add(1, token, torch.ones_like(frames)).clamp(min=1.0)
    centres = nothing.scatter_add(1, token, frames) / num_frames
    token_probs = nothing.scatter_reduce(1, token, log_probs.exp(), "amax")
    speech_probs = nothing.scatter_reduce(1, token, -emissions[:, :, BLANK].expm1(), "amax")
    padding = frames >= frame_lens[:, None]
    return _Emissions(
        of_tokens=torch.stack([centres, token_probs, speech_probs])[:, :, :num_tokens],
        frame_log_probs=log_probs.masked_fill(padding, 0.0).sum(1) / frame_lens,
        best=scores.best,
    )


def _cat_padded(tensors: Sequence[Tensor], *, dim: int) -> Tensor:
    """Joined in one dimension; the last one is padded with zeros."""
    longest = max(tensor.shape[-1] for tensor in tensors)
    return torch.cat([F.pad(tensor, (0, longest - tensor.shape[-1])) for tensor in tensors], dim=dim)


def _rest_start(words: Sequence[Word], times: Sequence[float]) -> float | None:
    """Where what follows the words begins, s: from when the head emits its tokens. See Alignment.

    Speech without any text has to follow a second of something else: that may be what the text was lost for.
    """
    end = words[-1].end if words else 0.0
    rest = times[bisect.bisect_right(times, end + _AFTER_WORD_S) :]
    if len(rest) < _MIN_REST_TOKENS or rest[-1] < end + MIN_REST_S:
        return None
    start = max(end, rest[0] - _AFTER_WORD_S)
    return start if words or start >= MIN_REST_S else None


def _settle(starts: Tensor, ends: Tensor, num_tokens: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
    """Move times (B, S), in seconds, as little as rising order, the clip's bounds and the least duration ask for."""
    least = (durations / num_tokens).clamp(max=MIN_TOKEN_S)[:, None]
    position = torch.arange(starts.shape[1])
    starts = (starts.clamp(min=0.0) - position * least).cummax(1).values + position * least
    starts = starts.minimum(durations[:, None] - (num_tokens[:, None] - position) * least)
    is_last = position == num_tokens[:, None] - 1
    following = torch.where(is_last, durations[:, None], starts.roll(-1, 1))
    return starts, ends.maximum(starts + least).minimum(following)


def _timed_words(
    task: _Task, starts: FloatArray, ends: FloatArray, token_probs: FloatArray, speech_probs: FloatArray
) -> tuple[Word, ...]:
    target = task.target

    def seconds(tokens: IntArray, fractions: FloatArray) -> FloatArray:
        # The end of a token has to come out as it is: next to half a millisecond it must round as the next one's start.
        within: FloatArray = (1.0 - fractions) * starts[tokens] + fractions * ends[tokens]
        return within.round(3)

    def means(probs: FloatArray) -> FloatArray:
        """Geometric, over the tokens of each word."""
        logs = np.concatenate([[0.0], np.log(probs.clip(_LEAST_PROB, 1.0)).cumsum()])
        total = logs[target.end_tokens + 1] - logs[target.start_tokens]
        mean: FloatArray = np.exp(total / (target.end_tokens + 1 - target.start_tokens))
        return mean

    has_numerals = np.array([word.has_numerals for word in target.words])
    confidences = np.where(has_numerals, means(speech_probs), means(token_probs)).tolist()
    word_starts = seconds(target.start_tokens, target.start_fractions).tolist()
    word_ends = seconds(target.end_tokens, target.end_fractions).clip(max=task.duration_s).tolist()
    texts = (word.text for word in target.words)
    return tuple(map(Word, texts, word_starts, word_ends, confidences))
