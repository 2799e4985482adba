"""Drafts for random weights, whose random words no other text foresees.

Each answer's draft is that answer itself, as the same prompt was answered before, in which every token is right with a
probability. The CTC head's own draft is made as well, and not used.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from ..decoder.base import POLL_S, Decoder, Hypothesis, Prompt
from ..decoder.drafts import Draft
from .measure import WrappedDecoder

AGREEMENT = 0.65  # a step then writes 2.8 tokens, as the micro checkpoint's do with the drafts of its CTC head


class AgreeingDraft(Draft):
    """An answer in which some tokens are wrong."""

    def __init__(self, token_ids: Sequence[int], agreement: float) -> None:
        rng = random.Random(0)
        self._tokens = [token if rng.random() < agreement else token ^ 1 for token in token_ids]
        self._count = 0

    def propose(self, count: int, end_id: int) -> list[int]:
        return self._tokens[self._count : self._count + count]

    def write(self, token_ids: Sequence[int]) -> None:
        self._count += len(token_ids)


class AgreeingDecoder(WrappedDecoder):
    """Drafts each answer after what the same prompt was answered before."""

    def __init__(self, decoder: Decoder, agreement: float) -> None:
        super().__init__(decoder)
        self._agreement = agreement
        self._prompts: dict[int, bytes] = {}  # by the prompt's id
        self._answers: dict[bytes, tuple[int, ...]] = {}

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        sample = prompt.embeds[:: max(1, len(prompt.embeds) // 16)].float().numpy().tobytes()
        answer = self._answers.get(sample, ())

        def agreeing() -> Draft | None:
            if prompt.draft is not None:
                prompt.draft()
            return AgreeingDraft(answer, self._agreement)

        self._prompts[prompt_id] = sample
        super().add(prompt_id, replace(prompt, draft=agreeing))

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        done = super().poll(wait_s=wait_s, wake=wake)
        for prompt_id, hypothesis in done:
            self._answers[self._prompts.pop(prompt_id)] = hypothesis.token_ids
        return done
