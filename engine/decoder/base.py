"""The interface of stage 2: prompt embeddings -> hypotheses, many at a time.

A decoder takes prompts at any time (`submit`) and returns those that have finished (`poll`). Prompts submitted while
others are being decoded join the running batch. Each prompt can be dropped (`cancel`), or followed while it is decoded
(`partial_tokens`). Prompts are checked here, because vLLM does not check them: a wrong width would stop its engine, and
a NaN could become text. A decoder hands a prompt on to another, in this process or in one of its own, by `add`, with
its id and without a second check.
"""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError, ConfigError, DecodeError, PromptTooLongError
from ..manifest import LLMInfo
from ..transcript import FinishReason
from .drafts import Draft

DraftSource = Callable[[], Draft | None]  # makes a draft of an answer at the time when it is used

POLL_S = 0.05  # how long a caller with nothing else to do waits for a result
_IDS = itertools.count()  # of all prompts of this process


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeParams:
    """How to choose tokens. The default is greedy decoding, which the models are made for."""

    max_new_tokens: int = 512
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # applies to the answer's tokens only: prompts of embeddings have no token ids
    seed: int | None = None  # for sampling, when temperature > 0
    ignore_eos: bool = False  # always generate max_new_tokens; for measuring speed

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature must be in [0, 2] (0 is greedy), got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"repetition_penalty must be positive (1 is off), got {self.repetition_penalty}")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:  # a generator that refuses it stops the engine
            raise ConfigError(f"seed must be in [-2^63, 2^63), got {self.seed}")


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The LLM's answer to one prompt, without the end-of-text token."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # natural logarithm, one per token
    finish_reason: FinishReason
    error: str | None = None  # why this prompt could not be decoded; the engine continues with the others


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingCounts:
    """What was decoded since the start. A step counts once for each sequence that takes part in it."""

    steps: int = 0
    tokens: int = 0  # that these steps have written
    drafted: int = 0  # tokens that were checked
    accepted: int = 0  # of the drafted ones, those that became part of the answer

    @property
    def tokens_per_step(self) -> float:
        return self.tokens / self.steps if self.steps else 0.0

    @property
    def accepted_share(self) -> float:
        return self.accepted / self.drafted if self.drafted else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt that has been checked, and how it is to be decoded; see Decoder.submit."""

    embeds: Tensor  # (P, hidden_size) on the CPU
    params: DecodeParams
    stream_tokens: bool = False
    draft: DraftSource | None = None

    @property
    def size(self) -> int:
        """Positions of the prompt and its answer."""
        return len(self.embeds) + self.params.max_new_tokens


class Decoder(Protocol):
    """Decodes prompt embeddings with continuous batching."""

    limits: "PromptLimits"

    @property
    def max_pending(self) -> int:
        """As many prompts as keep it busy; further ones would only wait. Known once it is ready; it may grow."""

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded; called once, before any `submit`. Raises ConfigError or DecodeError."""

    @property
    def num_pending(self) -> int:
        """The number of prompts that were submitted and not yet returned by `poll`."""

    def submit(
        self,
        prompt_embeds: Tensor,
        params: DecodeParams,
        *,
        stream_tokens: bool = False,
        draft: DraftSource | None = None,
    ) -> int:
        """Queue (P, hidden_size) prompt embeddings on the CPU; returns the prompt's id, which `poll` returns too.

        `stream_tokens` keeps partial_tokens() up to date for this prompt. It costs one message between processes per
        step. `draft` is what the answer may be like: a decoder that checks drafts takes fewer steps, and writes the
        same.

        Raises PromptTooLongError, AudioError or DecodeError for an invalid prompt; the decoder remains usable.
        """
        self.limits.check(prompt_embeds, params)
        prompt_id = next(_IDS)
        self.add(prompt_id, Prompt(prompt_embeds, params, stream_tokens, draft))
        return prompt_id

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        """Queue a prompt that has been checked. No other prompt of this decoder has its id."""

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        """Continue decoding and return the finished prompts as (id, hypothesis). With nothing pending, return at once.

        A decoder in this process decodes one step. A decoder in other processes runs
        by itself: this waits for its next message, at most `wait_s`, or until the file descriptor `wake` is readable.

        Raises DecodeError if the engine has failed, even while it was idle; a new decoder must be built then.
        """

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        """The tokens so far of a pending prompt submitted with `stream_tokens`."""

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        """Drop these prompts, or all pending ones. Ids that are not pending are ignored."""

    def close(self) -> None:
        """Free the model; idempotent. The decoder may not be used afterwards."""


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """The limits that every prompt is checked against."""

    hidden_size: int
    max_model_len: int  # positions: prompt and answer together
    dtype: torch.dtype

    def check(self, prompt_embeds: Tensor, params: DecodeParams) -> None:
        """Check one prompt. Raises DecodeError for a wrong shape, PromptTooLongError, or AudioError for NaN or inf."""
        if prompt_embeds.dim() != 2 or prompt_embeds.shape[1] != self.hidden_size:
            raise DecodeError(
                f"prompt embeddings must be (positions, {self.hidden_size}), got {tuple(prompt_embeds.shape)}"
            )
        self.check_length(prompt_embeds.shape[0], params.max_new_tokens)
        if not is_finite(prompt_embeds):
            raise AudioError("prompt embeddings hold NaN or infinity: the encoder failed on this audio")

    def check_length(self, num_positions: int, max_new_tokens: int) -> None:
        """Raises PromptTooLongError if prompt and answer together exceed max_model_len."""
        if num_positions + max_new_tokens > self.max_model_len:
            raise PromptTooLongError(
                f"the prompt takes {num_positions} positions and max_new_tokens={max_new_tokens} more, together "
                f"{num_positions + max_new_tokens}; the model length is {self.max_model_len}. Give fewer or shorter "
                f"hotwords, shorter audio, a smaller max_new_tokens, or a larger max_model_len"
            )


@dataclass(frozen=True, slots=True)
class LLMSource:
    """The converted LLM that a decoder loads. Raises ConfigError if max_model_len exceeds the LLM's positions."""

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


def recover_gpu(device: torch.device, stage: str) -> None:
    """Free the GPU allocator's cache after work that failed. Raises DecodeError if the GPU is broken."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:  # every later CUDA call of this process would fail as well
        raise DecodeError(f"the GPU of {stage} failed: {error}") from error
    torch.cuda.empty_cache()


def weight_bytes(directory: Path) -> int:
    """Size of a converted LLM's weights."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def is_finite(rows: Tensor) -> bool:
    """Whether bfloat16 or float32 rows on the CPU contain neither NaN nor infinity.

    Both have an exponent of all ones, so an integer comparison of the bits finds them. isfinite().all() takes twenty
    times as long. Operations that copy, such as torch's sum of bfloat16, are slowed down by page faults.
    """
    bits = rows.contiguous().view(torch.uint8).numpy()  # NumPy has no bfloat16
    if rows.dtype == torch.bfloat16:
        signed, unsigned = bits.view(np.int16), bits.view(np.uint16)
        infinity, minus_infinity = 0x7F80, 0xFF80
    else:
        signed, unsigned = bits.view(np.int32), bits.view(np.uint32)
        infinity, minus_infinity = 0x7F80_0000, 0xFF80_0000
    # As signed integers, +inf and positive NaN exceed every finite value; as unsigned ones, -inf and negative NaN do.
    return int(signed.max(initial=0)) < infinity and int(unsigned.max(initial=0)) < minus_infinity
