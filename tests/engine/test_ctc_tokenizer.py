"""The CTC vocabulary: ids as the reference gives them, bytes that add up to the text, broken files refused."""

import base64
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twostage_asr.engine.ctc_tokenizer import CTCTokenizer
from twostage_asr.engine.errors import CheckpointError

VOCABULARY = Path(__file__).parents[2] / "demos/micro/checkpoint/multilingual.tiktoken"


@pytest.fixture(scope="module")
def tokenizer() -> CTCTokenizer:
    return CTCTokenizer.from_file(VOCABULARY)


def test_reads_every_token(tokenizer: CTCTokenizer) -> None:
    assert len(tokenizer) == len(VOCABULARY.read_text().splitlines()) == 1853


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_the_bytes_of_the_tokens_are_the_text(tokenizer: CTCTokenizer, text: str) -> None:
    lines = VOCABULARY.read_text().splitlines()
    token_ids = tokenizer.encode(text)
    pieces = [base64.b64decode(lines[token_id].split()[0]) for token_id in token_ids]
    assert b"".join(pieces).decode() == text
    assert tokenizer.byte_lengths(np.array(token_ids, np.int64)).tolist() == [len(piece) for piece in pieces]


def test_special_looking_text_is_plain_text(tokenizer: CTCTokenizer) -> None:
    token_ids = tokenizer.encode("<|zh|><|endoftext|><|0.00|>")
    assert max(token_ids) < len(tokenizer)
    assert tokenizer.byte_lengths(np.array(token_ids)).sum() == len("<|zh|><|endoftext|><|0.00|>")


def test_a_character_may_be_split_over_tokens(tokenizer: CTCTokenizer) -> None:
    assert len(tokenizer.encode("\U0001f642")) > 1
    assert tokenizer.byte_lengths(np.array(tokenizer.encode("\U0001f642"))).sum() == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, "!!! 1853"], "line 1854: expected a base64 token"),
        (lambda lines: [*lines, "QUJDREVG"], "line 1854: expected a base64 token"),
        (lambda lines: [*lines, "QUJDREVG x"], "line 1854: expected a base64 token"),
        (lambda lines: [*lines, "QUJDREVG 5"], "must be 0 ... 1853, each once"),
        (lambda lines: [*lines, "QUJDREVG 1854"], "must be 0 ... 1853, each once"),
        (lambda lines: [*lines, lines[0].split()[0] + " 1853"], "1 repeated"),
        (lambda lines: lines[256:], "must be 0"),
        (lambda lines: ["QUJDREVG 0"], "256 bytes missing"),
    ],
)
def test_a_broken_vocabulary_is_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "ctc.tiktoken"
    path.write_text("\n".join(change(VOCABULARY.read_text().splitlines())) + "\n")
    with pytest.raises(CheckpointError, match=message):
        CTCTokenizer.from_file(path)


def test_an_absent_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        CTCTokenizer.from_file(tmp_path / "none.tiktoken")
