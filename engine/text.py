"""Text -> token ids and back, with the converted LLM's own tokenizer."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from .errors import CheckpointError
from .hub.model_files import read_bytes

TOKENIZER_NAME = "tokenizer.json"
_SILENCE_LABEL = re.compile(r"/sil")  # a label left in the training text
_WHITESPACE = re.compile(r"\s+")


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json. Raises CheckpointError if it is damaged or not a tokenizer."""
    content = read_bytes(path)
    try:
        return Tokenizer.from_buffer(content)
    except ValueError as error:
        fault = "is cut short" if "EOF" in str(error) else "is not a tokenizer"
        raise CheckpointError(f"{path} {fault}: {error}") from error


class LLMTokenizer:
    """The LLM's tokenizer; it recognises special tokens in text."""

    def __init__(self, llm_dir: Path) -> None:
        """Raises CheckpointError."""
        self._directory = llm_dir
        self._tokenizer = read_tokenizer(llm_dir / TOKENIZER_NAME)
        self._piece = lru_cache(maxsize=None)(self._decode_one)  # grows to the vocabulary's size at most

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Another process reads the file again."""
        return type(self), (self._directory,)

    def encode(self, text: str, *, begins_text: bool = False) -> list[int]:
        """Token ids of `text`. Special tokens such as <s> are added only if `begins_text`."""
        return self._tokenizer.encode(text, add_special_tokens=begins_text).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def decode_each(self, token_ids: Sequence[int]) -> list[str]:
        """The text of each token by itself; an incomplete character reads as U+FFFD."""
        return [self._piece(token_id) for token_id in token_ids]

    def _decode_one(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=True)


def clean_text(text: str) -> str:
    """Remove /sil labels and collapse white space, as FunASR's PyTorch path does; speech is never removed."""
    return _WHITESPACE.sub(" ", _SILENCE_LABEL.sub(" ", text)).strip()
