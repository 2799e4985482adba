"""Embed the text around the audio: prompt_embeds = [prefix | audio | suffix].

The model's family (`families/`) decides what the text says. This file turns it into rows of the LLM's embedding table.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .config import DEFAULT_PROMPT_BYTES
from .errors import CheckpointError, PromptTooLongError
from .hub.model_files import check_file
from .text import LLMTokenizer

EMBEDDING_NAME = "model.embed_tokens.weight"
PROMPT_CACHE_BYTES = 64 << 20  # of embedded prompts; one with 300 hotwords takes 4 MB


@dataclass(frozen=True, slots=True)
class PromptText:
    """What the LLM reads before and after the audio."""

    prefix: str
    suffix: str
    begins_text: bool = False  # the tokenizer adds its special tokens, such as <s>, before the prefix


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPrompt:
    """A PromptText as token ids and as rows of the embedding table."""

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    prefix: Tensor  # (P, hidden_size)
    suffix: Tensor  # (S, hidden_size)

    def __len__(self) -> int:
        return len(self.prefix_ids) + len(self.suffix_ids)

    def before(self, answer_ids: tuple[int, ...], rows: Tensor) -> "EmbeddedPrompt":
        """The same prompt, followed by the beginning of its answer. `rows`: (len(answer_ids), hidden_size)."""
        return EmbeddedPrompt(
            self.prefix_ids, self.suffix_ids + answer_ids, self.prefix, torch.cat([self.suffix, rows])
        )

    def around(self, audio_embeds: Tensor) -> Tensor:
        """(A, hidden_size) -> (P + A + S, hidden_size)."""
        return torch.cat([self.prefix, audio_embeds, self.suffix])

    @property
    def num_bytes(self) -> int:
        """Memory that its rows take."""
        return self.prefix.nbytes + self.suffix.nbytes


class EmbeddingTable:
    """Rows of the LLM's embedding table, read from its safetensors as they are needed."""

    def __init__(self, llm_dir: Path, dtype: torch.dtype) -> None:
        """Raises CheckpointError."""
        path = _file_of(llm_dir, EMBEDDING_NAME)
        check_file(path)
        try:
            file: Any = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise CheckpointError(f"{path} is cut short or damaged; convert the model again: {error}") from error
        self._rows: Tensor = file.get_tensor(EMBEDDING_NAME)  # mapped, not read
        self._dtype = dtype

    def __call__(self, token_ids: Sequence[int]) -> Tensor:
        """Token ids -> (len(token_ids), hidden_size) on the CPU."""
        return F.embedding(torch.tensor(token_ids, dtype=torch.int64), self._rows).to(self._dtype)


class PromptEmbedder:
    """Embeds prompts, with a least-recently-used cache of PROMPT_CACHE_BYTES."""

    def __init__(
        self, llm_dir: Path, tokenizer: LLMTokenizer, dtype: torch.dtype, *, max_text_bytes: int = DEFAULT_PROMPT_BYTES
    ) -> None:
        """`max_text_bytes`: the longest text around the audio, in bytes of UTF-8."""
        self._tokenizer = tokenizer
        self._table = EmbeddingTable(llm_dir, dtype)
        self._max_text_bytes = max_text_bytes
        self._kept: OrderedDict[PromptText, EmbeddedPrompt] = OrderedDict()  # the one used last comes last
        self._kept_bytes = 0

    def embed(self, text: PromptText, check: Callable[[int], None] = lambda num_tokens: None) -> EmbeddedPrompt:
        """Embed a prompt. Prefix and suffix are tokenised apart, because the models were trained so.

        `check` gets the number of tokens before any row is looked up. A prompt that it refuses is not cached.

        Raises:
            PromptTooLongError: the text is longer than `max_text_bytes`. Also whatever `check` raises.
        """
        prompt = self._kept.get(text)
        if prompt is not None:
            check(len(prompt))
            self._kept.move_to_end(text)
            return prompt
        self._require_size(text)
        prefix_ids = tuple(self._tokenizer.encode(text.prefix, begins_text=text.begins_text))
        suffix_ids = tuple(self._tokenizer.encode(text.suffix))
        check(len(prefix_ids) + len(suffix_ids))
        prompt = EmbeddedPrompt(prefix_ids, suffix_ids, self._table(prefix_ids), self._table(suffix_ids))
        self._keep(text, prompt)
        return prompt

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of the beginning of an answer, tokenised by itself."""
        return tuple(self._tokenizer.encode(text))

    def embed_answer(self, answer_ids: Sequence[int]) -> Tensor:
        """The embeddings of these ids, (len(answer_ids), hidden_size)."""
        return self._table(answer_ids)

    def _require_size(self, text: PromptText) -> None:
        num_bytes = len(text.prefix.encode()) + len(text.suffix.encode())
        if num_bytes > self._max_text_bytes:
            raise PromptTooLongError(
                f"the text around the audio takes {num_bytes:,} bytes, at most {self._max_text_bytes:,} are allowed "
                "(max_prompt_bytes); give fewer or shorter hotwords, or less context"
            )

    def _keep(self, text: PromptText, prompt: EmbeddedPrompt) -> None:
        if prompt.num_bytes > PROMPT_CACHE_BYTES:
            return
        self._kept[text] = prompt
        self._kept_bytes += prompt.num_bytes
        while self._kept_bytes > PROMPT_CACHE_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.num_bytes


def _file_of(llm_dir: Path, tensor: str) -> Path:
    """The safetensors file that holds `tensor`, sharded or not."""
    index = llm_dir / "model.safetensors.index.json"
    name = "model.safetensors"
    if index.is_file():
        name = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(tensor, name)
    if not (llm_dir / name).is_file():
        raise CheckpointError(f"{llm_dir / name}, which should hold {tensor}, does not exist; convert the model again")
    return llm_dir / name
