"""A decoder without an LLM: it writes by a rule, a few tokens a poll, and keeps to the whole Decoder protocol.

The rule reads a prompt's embeddings, so a test chooses the answers by what its stage 1 gives:

    decoder = FakeDecoder(lambda prompt: [int(prompt.max())] * 3)

A held decoder is at work and writes nothing, which leaves a test all the time that it needs between two steps.
"""

import itertools
import selectors
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twostage_asr.engine.decoder.base import POLL_S, DecodeParams, Decoder, Hypothesis, Prompt, PromptLimits
from twostage_asr.engine.errors import DecodeError

LOG_PROB = -0.1  # of every token

# (P, hidden_size) -> the tokens of the whole answer, or a Hypothesis with an error to fail this prompt alone.
Rule = Callable[[Tensor], "Sequence[int] | Hypothesis"]


@dataclass(slots=True, eq=False)
class _Pending:
    answer: Hypothesis
    num_written: int = 0


class FakeDecoder(Decoder):
    """Decodes all pending prompts together, like the real ones."""

    def __init__(
        self,
        rule: Rule,
        *,
        hidden_size: int = 4,
        max_model_len: int = 4096,
        max_pending: int = 64,
        tokens_per_poll: int = 4,
    ) -> None:
        self.limits = PromptLimits(hidden_size, max_model_len, torch.float32)
        self._max_pending = max_pending
        self.submitted: list[DecodeParams] = []  # of every prompt that was ever taken
        self.is_closed = False
        self._rule = rule
        self._tokens_per_poll = tokens_per_poll
        self._pending: dict[int, _Pending] = {}
        self._failure: str | None = None
        self._is_running = threading.Event()
        self._is_running.set()

    # --- what a test tells it

    def hold(self) -> None:
        """Write nothing until release()."""
        self._is_running.clear()

    def release(self) -> None:
        self._is_running.set()

    def fail(self, reason: str) -> None:
        """The engine dies: the next poll says so, and so does every one after it."""
        self._failure = reason

    # --- Decoder

    def wait_until_ready(self) -> None:
        """It is, from the start."""

    @property
    def max_pending(self) -> int:
        return self._max_pending

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        self._pending[prompt_id] = _Pending(self._answer(prompt.embeds, prompt.params))
        self.submitted.append(prompt.params)

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        if self._failure is not None:
            self._pending.clear()
            raise DecodeError(self._failure)
        if not self._pending:
            return []
        if not self._is_running.is_set():
            self._wait(wait_s, wake)
            return []
        for pending in self._pending.values():
            pending.num_written += self._tokens_per_poll
        done = [i for i, pending in self._pending.items() if pending.num_written >= len(pending.answer.token_ids)]
        return [(prompt_id, self._pending.pop(prompt_id).answer) for prompt_id in done]

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        pending = self._pending[prompt_id]
        return pending.answer.token_ids[: pending.num_written]

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        for prompt_id in list(self._pending) if prompt_ids is None else prompt_ids:
            self._pending.pop(prompt_id, None)

    def close(self) -> None:
        self._pending.clear()
        self.is_closed = True

    def _answer(self, prompt_embeds: Tensor, params: DecodeParams) -> Hypothesis:
        tokens = self._rule(prompt_embeds)
        if isinstance(tokens, Hypothesis):
            return tokens
        if params.ignore_eos:
            tokens = list(itertools.islice(itertools.cycle(tokens), params.max_new_tokens))
        is_cut = params.ignore_eos or len(tokens) > params.max_new_tokens
        written = tuple(tokens[: params.max_new_tokens])
        return Hypothesis(written, (LOG_PROB,) * len(written), "length" if is_cut else "stop")

    def _wait(self, wait_s: float, wake: int | None) -> None:
        """As a decoder in other processes waits for news: until `wait_s` have passed or `wake` can be read."""
        if wake is None:
            self._is_running.wait(wait_s)
            return
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            selector.select(wait_s)
