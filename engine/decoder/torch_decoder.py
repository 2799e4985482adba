"""Stage 2 in PyTorch: our own LLM blocks (llm.py), with continuous batching over a few sequences.

It runs on any torch device, without vLLM. On an NVIDIA GPU a step of few sequences is one CUDA graph, which takes less
time than a step of vLLM. A draft of the answer, where there is one, makes greedy decoding take fewer steps: a step
reads the last token and the next drafted ones, and keeps those that greedy decoding would have written.
"""

import itertools
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ..arena import Rows
from ..errors import ASRError
from ..isolation import alone, isolated
from ..worker_process import wait_readable
from .base import (
    POLL_S,
    DecodeParams,
    Decoder,
    DecodingCounts,
    Hypothesis,
    LLMSource,
    Prompt,
    recover_gpu,
    weight_bytes,
)
from .drafts import Draft
from .llm import LLM
from .llm_config import LLMConfig
from .runner import NUM_DRAFTED, PassOutput, Place, runner_for

MAX_SEQUENCES = 32  # decoded together
ROWS_PER_SEQUENCE = 640  # of the cache: a prompt of 30 s of audio and an answer of 512 tokens fit
MAX_PREFILL_POSITIONS = 4096  # that prompts which are read together take, padding included
PAUSE_S = 1.0  # without prompts, before anything is prepared that a prompt would have to wait for
LEAST_TEMPERATURE = 0.01  # that is computed with, as in vLLM: logits divided by less overflow

Answer = TypeVar("Answer")
Written = tuple[list[int], list[float]]  # tokens and their log-probabilities


@dataclass(slots=True, eq=False)
class _Sequence:
    """A prompt, and its answer so far."""

    prompt_id: int
    prompt: Prompt
    draft: Draft | None = None
    generator: torch.Generator | None = None
    base: int | None = None  # first row of the cache, once it has rows
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"a prompt of {len(self.prompt.embeds)} positions"

    @property
    def place(self) -> Place:
        """Where its next position is. The last token has no row yet: the step that reads it makes one."""
        assert self.base is not None
        start = len(self.prompt.embeds) + len(self.token_ids) - 1 if self.token_ids else 0
        return Place(start, self.base, self.prompt.size)

    @property
    def is_greedy(self) -> bool:
        return self.prompt.params.temperature == 0 and self.prompt.params.repetition_penalty == 1

    def proposed(self, end_id: int, vocab_size: int) -> list[int]:
        """The tokens that its draft expects next. A token that the LLM lacks, and those behind it, are left out."""
        if self.draft is None:
            return []
        room = self.prompt.params.max_new_tokens - len(self.token_ids) - 1  # beside the token that a step writes anyway
        tokens = self._asked(partial(self.draft.propose, min(NUM_DRAFTED, room), end_id)) or []
        return list(itertools.takewhile(lambda token: token < vocab_size, tokens))

    def follow(self, token_ids: Sequence[int]) -> None:
        """Tell the draft how the answer goes on."""
        if self.draft is not None:
            self._asked(partial(self.draft.write, token_ids))

    def make_draft(self) -> None:
        if self.prompt.draft is not None and self.is_greedy:
            self.draft = self._asked(self.prompt.draft)

    def _asked(self, work: Callable[[], Answer]) -> Answer | None:
        """What the draft answers. One that fails is done without: the prompt only takes longer."""
        outcome = alone("draft", self, work)
        if isinstance(outcome, ASRError):
            self.draft = None
            return None
        return outcome


class TorchDecoder(Decoder):
    """Decodes with our own LLM blocks."""

    def __init__(self, source: LLMSource, *, device: torch.device, max_sequences: int = MAX_SEQUENCES) -> None:
        """Load the weights. Raises CheckpointError if they are damaged or the LLM is none that llm.py computes."""
        self.limits = source.limits
        self.counts = DecodingCounts()
        self._end_ids, self._vocab_size = source.info.eos_token_ids, source.info.vocab_size
        self._device = device
        self._max_sequences = max_sequences
        num_rows = num_cache_rows(source, max_sequences)
        self._rows = Rows(num_rows)
        self._runner = runner_for(LLM(source, device, num_rows), max_sequences)
        self._pending: dict[int, _Sequence] = {}  # all that are not finished, the oldest first
        self._busy_at = math.inf  # time.monotonic() of the last poll with prompts; before the first, of being ready

    def wait_until_ready(self) -> None:
        """Compile the kernels and capture the CUDA graphs of one sequence."""
        self._runner.warm_up()
        self._busy_at = time.monotonic()

    @property
    def max_pending(self) -> int:
        return self._max_sequences

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def num_fitting(self, sizes: Sequence[int]) -> int:
        """How many prompts of these sizes, from the first on, need not wait for others; see Prompt.size."""
        rows = self._rows.copy()
        room = self._max_sequences - len(self._pending)
        return sum(1 for _ in itertools.takewhile(lambda size: rows.take(size) is not None, sizes[:room]))

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        self._pending[prompt_id] = _Sequence(prompt_id, prompt)

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        """Read the prompts that have room, and then write one step of all answers."""
        self._prepare_in_a_pause(wake)
        done: list[tuple[int, Hypothesis]] = []
        for group in _groups(self._admitted()):
            done += self._advance(group, self._prefill)
        running = [sequence for sequence in self._pending.values() if sequence.token_ids]
        if running:
            done += self._advance(running, self._step)
        return done

    def _prepare_in_a_pause(self, wake: int | None) -> None:
        """Prepare more, if there was no prompt for a while: a part, or all up to the time when `wake` can be read.

        A prompt that comes meanwhile waits for one part.
        """
        now = time.monotonic()
        if self._pending:
            self._busy_at = now
        elif now - self._busy_at >= PAUSE_S:
            while self._runner.warm_up_more() and wake is not None and not wait_readable([wake], 0):
                pass

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        return self._pending[prompt_id].token_ids

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        for prompt_id in list(self._pending) if prompt_ids is None else prompt_ids:
            self._forget(prompt_id)

    def close(self) -> None:
        self.cancel()
        vars(self).pop("_runner", None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # else the memory would stay this process's own

    def _forget(self, prompt_id: int) -> None:
        sequence = self._pending.pop(prompt_id, None)
        if sequence is not None and sequence.base is not None:
            self._rows.give_back(sequence.base)

    def _admitted(self) -> list[_Sequence]:
        """Give rows of the cache to those that wait, in the order in which they came, as far as there is room."""
        waiting = [sequence for sequence in self._pending.values() if sequence.base is None]
        num_running = len(self._pending) - len(waiting)
        admitted = waiting[: self._max_sequences - num_running]
        for number, sequence in enumerate(admitted):
            sequence.base = self._rows.take(sequence.prompt.size)
            if sequence.base is None:
                return admitted[:number]
            if (seed := sequence.prompt.params.seed) is not None:
                sequence.generator = torch.Generator(self._device).manual_seed(seed)
            sequence.make_draft()
        return admitted

    def _advance(
        self, sequences: Sequence[_Sequence], work: Callable[[Sequence[_Sequence]], list[Written]]
    ) -> list[tuple[int, Hypothesis]]:
        """Add to the answers what `work` writes, and return those that are finished, or that failed."""
        done: list[tuple[int, Hypothesis]] = []
        outcomes = isolated("decode", sequences, work, recover=partial(recover_gpu, self._device, "stage 2"))
        for sequence, outcome in zip(sequences, outcomes, strict=True):
            if isinstance(outcome, ASRError):
                hypothesis: Hypothesis | None = Hypothesis((), (), "stop", error=str(outcome))
            else:
                hypothesis = self._written(sequence, *outcome)
            if hypothesis is not None:
                self._forget(sequence.prompt_id)
                done.append((sequence.prompt_id, hypothesis))
        return done

    def _prefill(self, sequences: Sequence[_Sequence]) -> list[Written]:
        places = [sequence.place for sequence in sequences]
        found = self._runner.prefill([sequence.prompt.embeds for sequence in sequences], places)
        return [self._chosen(sequence, found, row, []) for row, sequence in enumerate(sequences)]

    def _step(self, sequences: Sequence[_Sequence]) -> list[Written]:
        proposed = [sequence.proposed(self._end_ids[0], self._vocab_size) for sequence in sequences]
        length = NUM_DRAFTED if any(proposed) else 0
        rows = [
            [sequence.token_ids[-1], *drafted, *[0] * (length - len(drafted))]
            for sequence, drafted in zip(sequences, proposed, strict=True)
        ]
        found = self._runner.step(rows, [sequence.place for sequence in sequences])
        written = [self._chosen(sequence, found, row, proposed[row]) for row, sequence in enumerate(sequences)]
        num_tokens, num_drafted = sum(len(tokens) for tokens, _ in written), sum(map(len, proposed))
        self.counts = DecodingCounts(
            steps=self.counts.steps + len(sequences),
            tokens=self.counts.tokens + num_tokens,
            drafted=self.counts.drafted + num_drafted,
            accepted=self.counts.accepted + num_tokens - len(sequences),
        )
        return written

    def _chosen(self, sequence: _Sequence, found: PassOutput, row: int, drafted: Sequence[int]) -> Written:
        """The tokens that one pass adds to an answer.

        The token that follows a drafted one counts as long as all drafted before it are what greedy decoding writes.
        """
        if not sequence.is_greedy:
            return self._sampled(sequence, found.logits[row : row + 1])
        best, log_probs = found.token_ids[row], found.log_probs[row]
        # The end token ends what counts, right or wrong.
        is_last = (token != best[i] or self._ends(sequence, token) for i, token in enumerate(drafted))
        num_written = 1 + next((i for i, last in enumerate(is_last) if last), len(drafted))
        return best[:num_written], log_probs[:num_written]

    def _sampled(self, sequence: _Sequence, logits: Tensor) -> Written:
        token_ids = torch.tensor([sequence.token_ids], dtype=torch.int64, device=logits.device)
        chosen = choose_tokens(logits, token_ids, sequence.prompt.params, sequence.generator)
        log_prob = logits.log_softmax(-1).gather(1, chosen)
        return [int(chosen)], [float(log_prob)]

    def _written(self, sequence: _Sequence, token_ids: list[int], log_probs: list[float]) -> Hypothesis | None:
        """Add tokens to an answer; returns it if they end it."""
        if any(map(math.isnan, log_probs)):
            return Hypothesis((), (), "stop", error=f"the LLM computed NaN for {sequence}")
        for token_id, log_prob in zip(token_ids, log_probs, strict=True):
            if self._ends(sequence, token_id):
                return Hypothesis(tuple(sequence.token_ids), tuple(sequence.log_probs), "stop")
            sequence.token_ids.append(token_id)
            sequence.log_probs.append(log_prob)
            if len(sequence.token_ids) == sequence.prompt.params.max_new_tokens:
                return Hypothesis(tuple(sequence.token_ids), tuple(sequence.log_probs), "length")
        sequence.follow(token_ids)
        return None

    def _ends(self, sequence: _Sequence, token_id: int) -> bool:
        return token_id in self._end_ids and not sequence.prompt.params.ignore_eos


def needed_bytes(source: LLMSource, max_sequences: int) -> int:
    """Memory for weights and cache. Raises CheckpointError for an LLM that llm.py does not compute."""
    config = LLMConfig.read(source.directory)
    row = 2 * config.num_layers * config.num_kv_heads * config.head_dim * source.dtype.itemsize
    return weight_bytes(source.directory) + row * num_cache_rows(source, max_sequences)


def num_cache_rows(source: LLMSource, max_sequences: int) -> int:
    """Rows of the cache for so many sequences; one of any length always fits."""
    return max(source.max_model_len, ROWS_PER_SEQUENCE * max_sequences)


def _groups(sequences: Sequence[_Sequence]) -> list[list[_Sequence]]:
    """Prompts that are read together: of similar length, because the shorter ones are padded."""
    groups: list[list[_Sequence]] = []
    for sequence in sorted(sequences, key=lambda sequence: len(sequence.prompt.embeds)):
        if not groups or (len(groups[-1]) + 1) * len(sequence.prompt.embeds) > MAX_PREFILL_POSITIONS:
            groups.append([])
        groups[-1].append(sequence)
    return groups


def choose_tokens(logits: Tensor, token_ids: Tensor, params: DecodeParams, generator: torch.Generator | None) -> Tensor:
    """The next tokens (B, 1), from logits (B, V) float32 and the tokens so far (B, n).

    Of probabilities p and exponentially distributed e, the largest p / e is a sample of p. torch.multinomial would do
    the same, but ends all work on the GPU, that of other prompts too, if a probability is NaN.
    """
    if params.repetition_penalty != 1 and token_ids.shape[1]:
        seen = logits.gather(1, token_ids)
        penalised = torch.where(seen > 0, seen / params.repetition_penalty, seen * params.repetition_penalty)
        logits = logits.scatter(1, token_ids, penalised)
    if params.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    scaled = logits / max(params.temperature, LEAST_TEMPERATURE)
    probs, order = scaled.softmax(-1).sort(-1, descending=True)
    outside = probs.cumsum(-1) - probs >= params.top_p  # the nucleus keeps the token that crosses top_p
    weights = probs.masked_fill(outside, 0) / torch.empty_like(probs).exponential_(generator=generator)
    return order.gather(1, weights.argmax(-1, keepdim=True))
