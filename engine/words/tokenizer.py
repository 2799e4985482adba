"""The CTC head's vocabulary: text -> token ids, and the bytes of each id.

The file is in tiktoken's format, with one "base64 rank" pair per line, in any order. Ids are the ranks. A checkpoint's
special tokens have the ids after them (<|endoftext|>, languages, <|0.00|>, ...) and are never produced here: "<|zh|>"
in a transcript is text. The published files contain an empty token, "= 48474", which no text is encoded to.
"""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import tiktoken

from ..errors import CheckpointError
from ..hub.model_files import cut_short, read_bytes

# GPT-2's pre-tokenisation; merges never cross its pieces: contractions, letters, digits, other signs, spaces.
SPLIT_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# FunASR's special tokens after the ranks: 2, 105 languages, 11 events, 4 emotions, 56 others and 1501 time stamps.
NUM_SPECIALS = 1679
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*=*")


class CTCTokenizer:
    """The byte-level BPE tokeniser that the CTC head was trained with."""

    def __init__(self, pieces: Sequence[bytes], *, name: str = "ctc") -> None:
        """`pieces`: the bytes of each token, in the order of their ids; all 256 single bytes must be among them."""
        self._pieces = tuple(pieces)
        self._lengths = np.array([len(piece) for piece in pieces], np.int64)
        ranks = {piece: rank for rank, piece in enumerate(self._pieces)}
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if len(ranks) != len(self._pieces) or missing:
            raise CheckpointError(
                f"a byte-level vocabulary holds each token once and all 256 bytes; this one of {len(self._pieces)} "
                f"tokens has {len(self._pieces) - len(ranks)} repeated and {len(missing)} bytes missing"
            )
        self._encoding = tiktoken.Encoding(name, pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Raises CheckpointError if the file cannot be read or is not a vocabulary in tiktoken's format."""
        content = read_bytes(path)
        try:
            return cls(_pieces(content.splitlines()), name=path.name)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}{cut_short(content)}") from error

    def check_blank(self, blank_id: int) -> None:
        """Raises CheckpointError unless the blank of a CTC head comes after all tokens."""
        if len(self) > blank_id:
            raise CheckpointError(
                f"the CTC vocabulary has {len(self)} tokens, but the head's blank is token {blank_id}; it must come "
                "after them"
            )

    def __len__(self) -> int:
        """Number of ordinary tokens; their ids are 0 ... len - 1."""
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, in which special tokens are ordinary text. `text` must be valid Unicode."""
        token_ids: list[int] = self._encoding.encode_ordinary(text)
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ordinary tokens. Special tokens, and bytes that are not valid UTF-8, are left out."""
        pieces, num_ordinary = self._pieces, len(self)
        return b"".join([pieces[i] for i in token_ids if i < num_ordinary]).decode("utf-8", "ignore")

    def byte_lengths(self, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The number of UTF-8 bytes of each token; a token may end inside a character."""
        return self._lengths[token_ids]


def _pieces(lines: Sequence[bytes]) -> list[bytes]:
    """Tokens in the order of their ranks."""
    tokens = sorted(_parse_line(line, number) for number, line in enumerate(lines, 1) if line.strip())
    if [rank for rank, _ in tokens] != list(range(len(tokens))):
        raise CheckpointError(f"the ranks of its {len(tokens)} tokens must be 0 ... {len(tokens) - 1}, each once")
    return [piece for _, piece in tokens]


def _parse_line(line: bytes, number: int) -> tuple[int, bytes]:
    """A line -> a rank and its token. Padding alone is the empty token, as in tiktoken."""
    try:
        piece, rank = line.split()
        if not _BASE64.fullmatch(piece):
            raise ValueError(f"{piece!r} has other characters than base64's")
        return int(rank), base64.b64decode(piece)
    except ValueError as error:
        raise CheckpointError(f"line {number}: expected a base64 token and its rank, got {line[:60]!r}") from error
