"""The text around the audio, embedded once: prompt_embeds = [prefix | audio | suffix].

What the text says belongs to the model's family (`families/`); this file turns it into rows of the LLM's embedding
table.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError
from .model_files import check_file
from .text import LLMTokenizer

EMBEDDING_NAME = "model.embed_tokens.weight"
PROMPT_CACHE_SIZE = 256  # distinct requests whose embedded prompts are kept


@dataclass(frozen=True, slots=True)
class PromptText:
    """What the LLM reads before and after the audio."""

    prefix: str
    suffix: str
    begins_text: bool = False  # the tokenizer puts before the prefix what it puts before any text, such as <s>


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
        """The same prompt with the beginning of its answer after it."""
        return EmbeddedPrompt(
            self.prefix_ids, self.suffix_ids + answer_ids, self.prefix, torch.cat([self.suffix, rows])
        )

    def around(self, audio_embeds: Tensor) -> Tensor:
        """(A, hidden_size) -> (P + A + S, hidden_size)."""
        return torch.cat([self.prefix, audio_embeds, self.suffix])


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
        self._rows = file.get_slice(EMBEDDING_NAME)
        self._dtype = dtype

    def __call__(self, token_ids: Sequence[int]) -> Tensor:
        """Token ids -> (len(token_ids), hidden_size) on the CPU."""
        distinct = sorted(set(token_ids))
        rows = {token: self._rows[token : token + 1] for token in distinct}
        if not rows:
            return torch.empty(0, self._rows.get_shape()[1], dtype=self._dtype)
        return torch.cat([rows[token] for token in token_ids]).to(self._dtype)


class PromptEmbedder:
    """Embeds each distinct prompt once."""

    def __init__(self, llm_dir: Path, tokenizer: LLMTokenizer, dtype: torch.dtype) -> None:
        self._tokenizer = tokenizer
        self._table = EmbeddingTable(llm_dir, dtype)
        self._embed_once = functools.lru_cache(PROMPT_CACHE_SIZE)(self._embed)

    def embed(self, text: PromptText) -> EmbeddedPrompt:
        """Prefix and suffix are tokenised apart, as the models were trained."""
        return self._embed_once(text)

    def embed_answer(self, text: str) -> tuple[tuple[int, ...], Tensor]:
        """Token ids of the beginning of an answer, tokenised apart, and their rows, (len(ids), hidden_size)."""
        answer_ids = tuple(self._tokenizer.encode(text))
        return answer_ids, self._table(answer_ids)

    def _embed(self, text: PromptText) -> EmbeddedPrompt:
        prefix_ids = tuple(self._tokenizer.encode(text.prefix, begins_text=text.begins_text))
        suffix_ids = tuple(self._tokenizer.encode(text.suffix))
        return EmbeddedPrompt(prefix_ids, suffix_ids, self._table(prefix_ids), self._table(suffix_ids))


def _file_of(llm_dir: Path, tensor: str) -> Path:
    """The safetensors file that holds `tensor`, sharded or not."""
    index = llm_dir / "model.safetensors.index.json"
    name = "model.safetensors"
    if index.is_file():
        name = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(tensor, name)
    if not (llm_dir / name).is_file():
        raise CheckpointError(f"{llm_dir / name}, which should hold {tensor}, does not exist; convert the model again")
    return llm_dir / name
