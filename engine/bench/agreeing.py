"""Drafts for random weights, whose random words no other text foresees.

Each token of a draft agrees with a given probability, whatever is written in its place. So a step does the work that it
does for real drafts, and keeps as many tokens. The LLM has then read other tokens than those that it has written, and
writes others than without a draft. That says nothing about random words; real answers do not depend on their drafts.

A prompt has a draft where it has one in earnest, of the CTC head or of the last live text. That one is made as well.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch

from ..decoder.base import Decoder, Prompt
from ..decoder.drafts import Draft
from ..transcriber import Transcriber
from .measure import WrappedDecoder

# A step then writes 2.2 tokens of an answer of 16, and 2.3 of one of 40. With the drafts of its CTC head, the micro
# checkpoint writes 2.1 of its bundled clips.
AGREEMENT = 0.58


class DraftedToken(int):
    """A token that a decoder takes for the one that it has written, or for another one."""

    agrees: bool

    @classmethod
    def of(cls, token_id: int, *, agrees: bool) -> Self:
        token = cls(token_id)
        token.agrees = agrees
        return token

    def __ne__(self, other: object) -> bool:
        return not self.agrees


class AgreeingDraft(Draft):
    """It proposes the answer's last token again and again."""

    def __init__(self, agreement: float, seed: bytes) -> None:
        self._random = random.Random(seed)
        self._agreement = agreement
        self._last = 0

    def propose(self, count: int, end_id: int) -> list[int]:
        return [DraftedToken.of(self._last, agrees=self._random.random() < self._agreement) for _ in range(count)]

    def write(self, token_ids: Sequence[int]) -> None:
        self._last = token_ids[-1]


class AgreeingDecoder(WrappedDecoder):
    """Replaces the drafts of its prompts."""

    def __init__(self, decoder: Decoder, agreement: float, *, has_ctc: bool) -> None:
        """`has_ctc`: a CTC head would draft what has no draft, as where the texts are not checked."""
        super().__init__(decoder)
        self._agreement = agreement
        self._has_ctc = has_ctc

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        def agreeing() -> Draft | None:
            real = None if prompt.draft is None else prompt.draft()
            return AgreeingDraft(self._agreement, _seed(prompt)) if self._has_ctc or real is not None else None

        super().add(prompt_id, replace(prompt, draft=agreeing))


def _seed(prompt: Prompt) -> bytes:
    """The same for the same prompt, so that an answer does not depend on the others, and another for another clip."""
    return prompt.embeds.sum(0).view(torch.uint8).numpy().tobytes()


def with_agreeing_drafts(transcriber: Transcriber, agreement: float) -> Transcriber:
    """The same model, whose drafts agree with this probability."""
    decoder = AgreeingDecoder(transcriber.decoder, agreement, has_ctc=transcriber.aligner is not None)
    return replace(transcriber, decoder=decoder)
