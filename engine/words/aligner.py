"""Word times: when each word of a transcript was spoken, by CTC forced alignment.

    hidden states of the CTC head + text  ->  Alignment: Words with start, end and confidence, or None and the reason;
                                              and the text of the CTC head's greedy decoding

text -> tokens of its spoken form (timer.py) -> the frames in which the head emits them (viterbi.py, here)
     -> the times of the words (timer.py).

- `Word.text` is the word as the transcript writes it, without punctuation; split.py says how to rebuild the text.
- Words do not overlap, lie inside the clip and last at least 20 ms (or an equal share of a clip too short for that).
- `Word.confidence` is the geometric mean, over the word's tokens, of the highest probability that the head gives the
  token in the frames where it is emitted. The head may spell out what the text writes with digits or signs ("20%"), so
  for such words the highest probability of any token other than blank counts instead. If the LLM's token probabilities
  are known, they are combined with it (confidence.py).
- `Alignment.words` covers the whole text, or is None with a `reason`. A text without words gives ().
- If the head emits tokens for at least MIN_REST_S after the last word, the text lacks its end. The speech that it lacks
  begins at `rest_start`.

Frame t covers seven 25 ms windows around the one that begins at t * 60 ms, so its centre is at t * 60 ms + 12.5 ms.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...encoders import SAMPLE_RATE
from ...encoders.ctc import CTCHead
from ...encoders.fbank import WINDOW_SAMPLES
from ...encoders.upload import from_device, to_device
from ..audio.waveform import Waveform
from ..manifest import FrameClock
from ..transcript import Word
from .confidence import WrittenTokens
from .hotwords import SURE_BLANK, HeardFrames, HotwordLists, most_picked
from .processes import WordProcesses
from .timer import CTCFrames, Emissions, TargetTokens, Texts, TimedText, WordTimer, collapse
from .token_times import IntArray
from .tokenizer import CTCTokenizer
from .viterbi import BLANK, best_paths, path_log_probs
from .viterbi_blocks import FrameScores, Path, path_in_blocks

logger = logging.getLogger(__name__)

HALF_WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE / 2
_MAX_CELLS = 4_000_000  # clips x frames x states of one search: about 80 MB; a clip with more is searched in blocks
_MAX_FRAMES_AT_ONCE = 512  # frames whose logits are in memory at once: 124 MB
_LEAST_WARM, _MOST_WARM = 15, 240  # shortest and longest text, in tokens, of the warm-up


@dataclass(frozen=True, slots=True)
class Alignment:
    """The result of aligning one text. `words` covers the whole text, or is None with `reason`."""

    words: tuple[Word, ...] | None
    reason: str | None = None
    ctc_text: str | None = None  # the CTC head's greedy text: spoken form, no punctuation; None: no head or no frames
    rest_start: float | None = None  # s, start of speech that the text lacks at its end; `ctc_text` ends before it
    disagreement: float | None = None  # between the text and `ctc_text`, if requested; see quality.py


class TextAligner(Protocol):
    """Finds word times from the waveform itself, for models without a CTC head."""

    def align_words(
        self, waveforms: Sequence[Waveform], texts: Sequence[str], languages: Sequence[str | None]
    ) -> list[Alignment]:
        """Align each text with its waveform, (N,) float32 at 16 kHz. `languages` are those of the texts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Paths:
    """The fields of timer.Emissions for one batch, as tensors on the head's device."""

    of_tokens: Tensor  # (3, B, S) float32
    frame_log_probs: Tensor  # (B,) float32
    best: Tensor  # (B, T) int32


class WordAligner:
    """Finds word times with one CTC head."""

    def __init__(self, tokenizer: CTCTokenizer, head: CTCHead, clock: FrameClock, *, num_processes: int = 0) -> None:
        """`num_processes` worker processes share the CPU's work on many texts, once `start_processes` was called.

        Raises CheckpointError if tokenizer and head do not match.
        """
        tokenizer.check_blank(head.config.blank_id)
        self._head = head
        frames = CTCFrames(clock.frame_s, HALF_WINDOW_S, head.config.blank_id, head.config.vocab_size)
        self._frame_s = clock.frame_s
        self._tokenizer = tokenizer
        self._hotwords = HotwordLists(tokenizer)
        self._timers = WordProcesses(WordTimer(tokenizer, frames), num_processes)
        # The CPU waits for these small kernels, so they must not queue behind the batch that stage 1 is encoding.
        device = next(head.parameters()).device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def start_processes(self) -> None:
        """Start the worker processes, which takes about a second; another thread may align meanwhile."""
        self._timers.start()

    def warm_up(self) -> None:
        """Compile the GPU kernels for texts of up to _MOST_WARM tokens, so that no request waits for it.

        Another thread may align meanwhile. So this leaves out the timers, which answer one question after the other.
        """
        weight = self._head.ctc.ctc_lo.weight
        token_id = 0 if self._head.config.blank_id else 1
        num_tokens = _LEAST_WARM
        while num_tokens <= _MOST_WARM:  # doubled each time, because the search is compiled per power of two
            with torch.cuda.stream(self._stream):
                hidden = weight.new_zeros(2 * num_tokens, weight.shape[1])
            self._emissions([hidden], TargetTokens(np.full(num_tokens, token_id), np.array([num_tokens])))
            num_tokens *= 2
        logger.debug("loading: the kernels of word times are compiled")

    def align(
        self,
        hidden: Sequence[Tensor],
        texts: Sequence[str],
        durations: Sequence[float],
        *,
        written: Sequence[WrittenTokens | None] | None = None,
        compare: bool = False,
    ) -> list[Alignment]:
        """Find the word times of many clips; returns one Alignment per clip, in order.

        Args:
            hidden: per clip, the (T, D) output of `CTCHead.hidden` for the clip's own frames; all on one device. On a
                GPU the values must be computed, not only queued: `EncodedBatch.utterances` waits for that.
            texts: each clip's transcript, as users see it.
            durations: seconds of audio in each clip; no word ends later.
            written: each clip's LLM tokens with their log-probabilities, to be combined with the head's confidence.
            compare: compute the disagreement between each text and the head's greedy text.
        """
        if not texts:
            return []
        num_frames = [len(clip) for clip in hidden]
        question = Texts(texts, num_frames, durations, written or [None] * len(texts), compare)
        try:
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self._timers.restart)
                alignments = self._align(hidden, question, self._timers.shares(len(texts)))
                on_failure.pop_all()
        except (EOFError, OSError):  # a worker process has died: do all of the work in this process
            alignments = self._align(hidden, question, [slice(None)])
        return alignments

    def heard_hotwords(self, hidden: Tensor, hotwords: tuple[str, ...]) -> tuple[str, ...]:
        """Pick the hotwords that a clip's (T, D) hidden states support best; see hotwords.py.

        A list is tokenised at its first use.
        """
        listed = self._hotwords[hotwords]
        frames = self._heard_frames(hidden, torch.from_numpy(listed.token_ids))
        return listed.heard(frames, most_picked(len(hidden) * self._frame_s))

    @torch.inference_mode()
    def greedy_text(self, hidden: Tensor) -> str:
        """The head's greedy text of one clip: spoken form, no punctuation. `hidden`: see `align`."""
        if not len(hidden):
            return ""
        blank_id = self._head.config.blank_id
        with torch.cuda.stream(self._stream):
            (best,) = from_device(self._head.scores([hidden], torch.tensor([[blank_id]])).best)
        ((token_ids, _),) = collapse(best.numpy(), [len(hidden)], blank_id)
        return self._tokenizer.decode(token_ids)

    def close(self) -> None:
        """Stop the worker processes; idempotent."""
        self._timers.close()

    def _align(self, hidden: Sequence[Tensor], texts: Texts, shares: Sequence[slice]) -> list[Alignment]:
        parts = self._timers.targets([texts.part(share) for share in shares])
        targets = TargetTokens(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        emissions = self._emissions(hidden, targets)
        return list(map(_alignment, self._timers.timed([emissions.part(share) for share in shares])))

    @torch.inference_mode()
    def _heard_frames(self, hidden: Tensor, token_ids: Tensor) -> HeardFrames:
        blank_id, columns = self._head.config.blank_id, to_device(token_ids, hidden.device)
        tokens, blanks = [], []
        with torch.cuda.stream(self._stream):
            before = hidden.new_zeros(1, dtype=torch.bool)  # whether the frame before this part may hold a token
            for part in torch.split(hidden, _MAX_FRAMES_AT_ONCE):
                logits = self._head.ctc.logits(part)
                blank = logits[:, blank_id].clone()
                logits[:, blank_id] = -torch.inf
                other = logits.amax(-1)
                says = blank - other < SURE_BLANK
                follows = torch.cat([before, says[:-1]])  # frames after them: a blank separates two equal tokens
                shown, before = (says | follows).nonzero()[:, 0], says[-1:]
                best = torch.maximum(blank, other)[shown]
                tokens.append(logits[shown[:, None], columns] - best[:, None])
                blanks.append(blank[shown] - best)
            of_tokens, of_blank = from_device(torch.cat(tokens), torch.cat(blanks))
        return HeardFrames(of_tokens.numpy(), of_blank.numpy())

    @torch.inference_mode()
    def _emissions(self, hidden: Sequence[Tensor], targets: TargetTokens) -> Emissions:
        """What the best path of each text emits, and the head's greedy tokens, which do not depend on the text."""
        ends = targets.num_tokens.cumsum()
        token_ids = np.split(targets.token_ids, ends[:-1])
        batches = _batches([len(clip) for clip in hidden], targets.num_tokens)
        if not batches:  # no clip has a frame
            return Emissions(
                np.zeros((3, len(hidden), 1), np.float32),
                np.zeros(len(hidden), np.float32),
                np.zeros((len(hidden), 1), np.int32),
            )
        with torch.cuda.stream(self._stream):
            paths = [self._paths([hidden[i] for i in batch], [token_ids[i] for i in batch]) for batch in batches]
            of_tokens = _cat_padded([part.of_tokens for part in paths], dim=1)
            frame_log_probs = torch.cat([part.frame_log_probs for part in paths])
            best = _cat_padded([part.best for part in paths], dim=0)
            # Here the CPU waits for the device, once for all batches and outputs.
            found = [each.numpy() for each in from_device(of_tokens, frame_log_probs, best)]
        # Restore the clips' order from the batches'. Clips without frames are in no batch, and get the row of index 0.
        row = np.zeros(len(hidden), np.int64)
        row[np.concatenate(batches)] = np.arange(len(found[1]))
        return Emissions(found[0][:, row], found[1][row], found[2][row])

    def _paths(self, hidden: Sequence[Tensor], token_ids: Sequence[IntArray]) -> _Paths:
        """Search the best paths of one batch. On a GPU the work is queued, not awaited, except for a long clip."""
        device = hidden[0].device
        lens = [torch.tensor([len(clip) for clip in clips]) for clips in (hidden, token_ids)]
        if len(token_ids[0]) and len(hidden[0]) * (2 * len(token_ids[0]) + 1) > _MAX_CELLS:  # a batch of its own
            path = self._path_in_blocks(hidden[0], token_ids[0])
            return _read_paths(Path(*(to_device(each, device) for each in path)), len(token_ids[0]), lens[0].to(device))
        columns, targets, frame_lens, target_lens = (
            to_device(each, device) for each in (*_columns_and_targets(token_ids, self._head.config.blank_id), *lens)
        )
        scores = self._head.scores(hidden, columns)
        states = best_paths(scores.emissions, targets, frame_lens, target_lens)
        log_probs = path_log_probs(scores.emissions, targets, states)
        path = Path(states, log_probs, scores.emissions[:, :, BLANK], scores.best)
        return _read_paths(path, targets.shape[1], frame_lens)

    def _path_in_blocks(self, hidden: Tensor, token_ids: IntArray) -> Path:
        """The path of one clip, on the CPU."""

        def score(frames: slice, tokens: slice) -> FrameScores:
            columns, targets = _columns_and_targets([token_ids[tokens]], self._head.config.blank_id)
            scores = self._head.scores([hidden[frames]], to_device(columns, hidden.device))
            emissions, best = from_device(scores.emissions, scores.best)
            return FrameScores(emissions, targets, best)

        return path_in_blocks(score, token_ids, len(hidden))


def _alignment(timed: TimedText) -> Alignment:
    words = None if timed.words is None else tuple(map(Word, *timed.words))
    return Alignment(words, timed.reason, timed.ctc_text, timed.rest_start, timed.disagreement)


def _batches(num_frames: Sequence[int], num_tokens: IntArray) -> list[list[int]]:
    """Group clips of similar length into batches of at most _MAX_CELLS; returns the clips' indices.

    Batches are as large as possible, because launching more kernels takes longer than processing the padding. Clips
    without frames are left out.
    """
    batches: list[list[int]] = []
    most_states = 0
    for i in sorted(np.flatnonzero(num_frames).tolist(), key=lambda i: -num_frames[i]):
        states = 2 * int(num_tokens[i]) + 1
        most_states = max(most_states, states)
        if not batches or (len(batches[-1]) + 1) * num_frames[batches[-1][0]] * most_states > _MAX_CELLS:
            batches.append([])
            most_states = states
        batches[-1].append(i)
    return batches


def _columns_and_targets(token_ids: Sequence[IntArray], blank_id: int) -> tuple[Tensor, Tensor]:
    """The head's columns that alignment needs for each clip, blank first: (B, 1 + S); and the targets' indices: (B, S).

    Two equal neighbouring tokens get the same index, which tells the search that a blank must lie between them.
    """
    num_tokens = np.array([len(clip) for clip in token_ids])
    columns = np.full((len(token_ids), 1 + max(int(num_tokens.max()), 1)), blank_id)
    columns[:, 1:][np.arange(columns.shape[1] - 1) < num_tokens[:, None]] = np.concatenate(token_ids)
    is_new = columns[:, 1:] != columns[:, :-1]
    targets = np.maximum.accumulate(np.where(is_new, np.arange(1, columns.shape[1]), 1), axis=1)
    return torch.from_numpy(columns), torch.from_numpy(targets)


def _read_paths(path: Path, num_tokens: int, frame_lens: Tensor) -> _Paths:
    """Reduce the frames of each path (B, T) to its tokens (B, S)."""
    states, num_clips = path.states, len(path.states)
    # Blank and padding frames are collected in one extra token at the end.
    token = torch.where(states % 2 == 1, states // 2, num_tokens)
    frames = torch.arange(states.shape[1], dtype=torch.float32, device=states.device).expand(num_clips, -1)
    nothing = frames.new_zeros(num_clips, num_tokens + 1)
    num_frames = nothing.scatter_add(1, token, torch.ones_like(frames)).clamp(min=1.0)
    centres = nothing.scatter_add(1, token, frames) / num_frames
    token_probs = nothing.scatter_reduce(1, token, path.log_probs.exp(), "amax")
    speech_probs = nothing.scatter_reduce(1, token, -path.blank_log_probs.expm1(), "amax")
    padding = frames >= frame_lens[:, None]
    return _Paths(
        of_tokens=torch.stack([centres, token_probs, speech_probs])[:, :, :num_tokens],
        frame_log_probs=path.log_probs.masked_fill(padding, 0.0).sum(1) / frame_lens,
        best=path.best.int(),
    )


def _cat_padded(tensors: Sequence[Tensor], *, dim: int) -> Tensor:
    """Concatenate along `dim`, after padding the last dimension with zeros."""
    longest = max(tensor.shape[-1] for tensor in tensors)
    return torch.cat([F.pad(tensor, (0, longest - tensor.shape[-1])) for tensor in tensors], dim=dim)
