"""Stage 2 with transformers: runs on any torch device (cpu, cuda, npu), without vLLM.

It is used where vLLM cannot run, and it is the reference for vLLM's tokens. Prompts wait until `poll`, which decodes
one whole batch.
"""

import itertools
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from ..errors import ASRError
from ..isolation import isolated
from .base import POLL_S, DecodeParams, Hypothesis, LLMSource

MAX_BATCH = 32  # prompts decoded together


class TorchDecoder:
    """Decodes batches of prompts with the plain PyTorch model."""

    def __init__(self, source: LLMSource, *, device: torch.device) -> None:
        model = AutoModelForCausalLM.from_pretrained(source.directory, dtype=source.dtype, local_files_only=True)
        self._model = model.eval().to(device)
        self._device = device
        self.limits = source.limits
        self._eos_token_ids = frozenset(source.info.eos_token_ids)
        self._eos = torch.tensor(source.info.eos_token_ids, device=device)
        self.max_pending = MAX_BATCH
        self._pending: dict[int, tuple[Tensor, DecodeParams]] = {}
        self._ids = itertools.count()

    def wait_until_ready(self) -> None:
        """Return at once: the model was loaded by the constructor."""

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def submit(self, prompt_embeds: Tensor, params: DecodeParams, *, stream_tokens: bool = False) -> int:
        self.limits.check(prompt_embeds, params)
        prompt_id = next(self._ids)
        self._pending[prompt_id] = (prompt_embeds, params)
        return prompt_id

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        if not self._pending:
            return []
        params = next(iter(self._pending.values()))[1]
        alike = (prompt_id for prompt_id, (_, other) in self._pending.items() if other == params)
        batch = list(itertools.islice(alike, MAX_BATCH))
        prompts = [self._pending.pop(prompt_id)[0] for prompt_id in batch]
        outcomes = isolated("decode", prompts, lambda some: self._decode(some, params), name=_name)
        return [(i, _hypothesis(outcome)) for i, outcome in zip(batch, outcomes, strict=True)]

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        return ()  # an answer is decoded within one poll

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        for prompt_id in list(self._pending) if prompt_ids is None else prompt_ids:
            self._pending.pop(prompt_id, None)

    def close(self) -> None:
        self._pending.clear()
        self._model = None

    @torch.inference_mode()
    def _decode(self, prompts: Sequence[Tensor], params: DecodeParams) -> list[Hypothesis]:
        """Decode prompts, (P, hidden_size) each, as one batch, padded on the left so that answers start together."""
        generator = None
        if params.seed is not None:
            generator = torch.Generator(self._device).manual_seed(params.seed)
        embeds = pad_sequence([p.to(self._device, self.limits.dtype) for p in prompts], True, padding_side="left")
        lens = torch.tensor([p.shape[0] for p in prompts], device=self._device)
        columns = torch.arange(embeds.shape[1], device=self._device)
        mask = columns >= embeds.shape[1] - lens[:, None]  # (B, P)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        token_ids = lens.new_empty(len(prompts), 0)  # (B, tokens so far)
        log_probs = torch.empty(len(prompts), 0, device=self._device)
        finished = torch.zeros_like(lens, dtype=torch.bool)
        inputs, cache = {"inputs_embeds": embeds}, None
        while token_ids.shape[1] < params.max_new_tokens and not finished.all():
            output = self._model(
                **inputs, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, logits_to_keep=1
            )
            cache = output.past_key_values
            logits = output.logits[:, -1].float()
            chosen = choose_tokens(logits, token_ids, params, generator)
            log_probs = torch.cat([log_probs, logits.log_softmax(-1).gather(1, chosen)], 1)
            token_ids = torch.cat([token_ids, chosen], 1)
            if not params.ignore_eos:
                finished |= torch.isin(chosen[:, 0], self._eos)
            inputs = {"input_ids": chosen}
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
            positions = positions[:, -1:] + 1
        return [self._answer(t, p, params) for t, p in zip(token_ids.tolist(), log_probs.tolist(), strict=True)]

    def _answer(self, token_ids: list[int], log_probs: list[float], params: DecodeParams) -> Hypothesis:
        eos = frozenset() if params.ignore_eos else self._eos_token_ids
        end = next((i for i, token in enumerate(token_ids) if token in eos), None)
        return Hypothesis(tuple(token_ids[:end]), tuple(log_probs[:end]), "length" if end is None else "stop")


def _name(prompt: Tensor) -> str:
    return f"a prompt of {len(prompt)} positions"


def _hypothesis(outcome: Hypothesis | ASRError) -> Hypothesis:
    return outcome if isinstance(outcome, Hypothesis) else Hypothesis((), (), "stop", error=str(outcome))


def choose_tokens(logits: Tensor, token_ids: Tensor, params: DecodeParams, generator: torch.Generator | None) -> Tensor:
    """The next tokens (B, 1), from logits (B, V) float32 and the tokens so far (B, n)."""
    if params.repetition_penalty != 1 and token_ids.shape[1]:
        seen = logits.gather(1, token_ids)
        penalised = torch.where(seen > 0, seen / params.repetition_penalty, seen * params.repetition_penalty)
        logits = logits.scatter(1, token_ids, penalised)
    if params.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    probs, order = (logits / params.temperature).softmax(-1).sort(-1, descending=True)
    outside = probs.cumsum(-1) - probs >= params.top_p  # the nucleus keeps the token that crosses top_p
    rank = torch.multinomial(probs.masked_fill(outside, 0), 1, generator=generator)
    return order.gather(1, rank)
