"""Stage 2's seam: prompt embeddings in, hypotheses out, many at a time.

A decoder takes prompts at any moment (`submit`) and hands back whatever has finished (`poll`); prompts submitted while
others are being decoded join them in the same batch, and any of them can be dropped (`cancel`) or watched (`written`)
alone. Both decoders take the same prompts and check them here, because
vLLM does not: a wrong width or a NaN would stop its engine or turn into words.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError, ConfigError, DecodeError, PromptTooLongError
from ..manifest import LLMInfo
from ..transcript import FinishReason

POLL_S = 0.05  # that a caller with nothing else to do waits for a result


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeParams:
    """How to choose tokens. The default is greedy, as the models are meant to be read."""

    max_new_tokens: int = 512
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # on the answer alone: embedding prompts have no token ids
    seed: int | None = None  # of sampling, when temperature > 0
    ignore_eos: bool = False  # always write max_new_tokens; for measuring speed

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature must be in [0, 2] (0 is greedy), got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.repetition_penalty <= 0:
            raise ConfigError(f"repetition_penalty must be positive (1 is off), got {self.repetition_penalty}")


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What the LLM wrote. Neither tuple holds the end-of-sentence token."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # natural logarithm, one per token
    finish_reason: FinishReason
    error: str | None = None  # why this prompt alone could not be decoded, while the engine goes on


class Decoder(Protocol):
    """Decodes prompt embeddings with continuous batching."""

    limits: "PromptLimits"
    max_pending: int  # prompts that keep it busy; more would only wait. Known when it is ready

    def wait_until_ready(self) -> None:
        """Called once, before anything is submitted. Raises ConfigError or DecodeError if it cannot start."""

    @property
    def num_pending(self) -> int:
        """Prompts submitted and not yet handed back."""

    def submit(self, prompt_embeds: Tensor, params: DecodeParams, *, stream_tokens: bool = False) -> int:
        """Queue (P, hidden_size) prompt embeddings; returns the id that `poll` will name.

        `stream_tokens` keeps partial_tokens() up to date for this prompt, which costs a message a step between
        processes.

        Raises PromptTooLongError, AudioError or DecodeError for a prompt that cannot be decoded; the engine stays
        usable.
        """

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        """Go on decoding and return what has finished; empty and at once when nothing is pending.

        A decoder in this process decodes one more step. One in processes of its own decodes anyway: this waits for news
        of any prompt, at most `wait_s` and not longer than until the file descriptor `wake` can be read.

        Raises DecodeError if the engine failed, also while it had nothing to do; it must be built anew.
        """

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        """The tokens so far of a pending prompt that is followed; none where whole answers are decoded at once."""

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        """Drop these prompts, or everything that is pending. What is not pending is passed over."""

    def close(self) -> None:
        """Free the model; idempotent. No call may follow."""


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """What every prompt must fit into."""

    hidden_size: int
    max_model_len: int  # positions: prompt and answer together
    dtype: torch.dtype

    def check(self, prompt_embeds: Tensor, params: DecodeParams) -> None:
        """Raises PromptTooLongError; AudioError for numbers that no LLM can read; DecodeError for a wrong shape."""
        if prompt_embeds.dim() != 2 or prompt_embeds.shape[1] != self.hidden_size:
            raise DecodeError(
                f"prompt embeddings must be (positions, {self.hidden_size}), got {tuple(prompt_embeds.shape)}"
            )
        self.check_length(prompt_embeds.shape[0], params.max_new_tokens)
        if not is_finite(prompt_embeds):
            raise AudioError("prompt embeddings hold NaN or infinity: the encoder failed on this audio")

    def check_length(self, num_positions: int, max_new_tokens: int) -> None:
        """Raises PromptTooLongError if prompt and answer do not fit."""
        if num_positions + max_new_tokens > self.max_model_len:
            raise PromptTooLongError(
                f"the prompt takes {num_positions} positions and max_new_tokens={max_new_tokens} more, together "
                f"{num_positions + max_new_tokens}; the model length is {self.max_model_len}. Give fewer or shorter "
                f"hotwords, shorter audio, a smaller max_new_tokens, or a larger max_model_len"
            )


@dataclass(frozen=True, slots=True)
class LLMSource:
    """The converted LLM that a decoder loads. Raises ConfigError for a max_model_len that the LLM was not made for."""

    directory: Path
    info: LLMInfo
    dtype: torch.dtype
    max_model_len: int

    def __post_init__(self) -> None:
        most = self.info.max_position_embeddings
        if not 1 < self.max_model_len <= most:
            raise ConfigError(
                f"max_model_len must be between 2 and {most} (the LLM's positions), got {self.max_model_len}"
            )

    @property
    def limits(self) -> PromptLimits:
        return PromptLimits(self.info.hidden_size, self.max_model_len, self.dtype)


def is_finite(rows: Tensor) -> bool:
    """Whether bfloat16 or float32 rows on the CPU hold neither NaN nor infinity, whose exponents are all ones.

    isfinite().all() takes twenty times as long, and what makes a copy, as torch's sum of bfloat16 does, page faults.
    """
    bits = rows.contiguous().view(torch.uint8).numpy()  # NumPy has no bfloat16
    if rows.dtype == torch.bfloat16:
        signed, unsigned = bits.view(np.int16), bits.view(np.uint16)
        infinity, minus_infinity = 0x7F80, 0xFF80
    else:
        signed, unsigned = bits.view(np.int32), bits.view(np.uint32)
        infinity, minus_infinity = 0x7F80_0000, 0xFF80_0000
    # Among signed integers, what is not finite and positive is the largest; among unsigned ones, what is negative.
    return int(signed.max(initial=0)) < infinity and int(unsigned.max(initial=0)) < minus_infinity
