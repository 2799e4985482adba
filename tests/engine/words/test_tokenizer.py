"""The CTC vocabulary: ids as the reference gives them, bytes that add up to the text, broken files refused."""

import base64
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.words.tokenizer import NUM_SPECIALS, CTCTokenizer

VOCABULARY = Path(__file__).parents[3] / "demos/micro/checkpoint/multilingual.tiktoken"
FUNASR_TOKENIZER = Path(__file__).parents[2] / "peers/funasr_tokenizer.py"
TEXTS = (
    "开饭时间早上九点至下午五点。",
    "Set the volume to 25, please!",
    "我用iPhone15打电话",
    "こんにちは、世界",
    "안녕하세요 9시",
    "naïve café \U0001f642 𠮷",
    "<|zh|><|0.00|> text",
    "  two  spaces\n\tand tabs ",
)
Lines = list[str]


@pytest.fixture(scope="module")
def tokenizer() -> CTCTokenizer:
    return CTCTokenizer.from_file(VOCABULARY)


def test_reads_every_token(tokenizer: CTCTokenizer) -> None:
    assert len(tokenizer) == len(VOCABULARY.read_text().splitlines()) == 2348


def with_empty_token(lines: Lines) -> Lines:
    """The published vocabulary holds such a token among the others; the ranks after it are one higher."""
    middle = len(lines) // 2
    pieces = [line.split()[0] for line in lines]
    pieces.insert(middle, "=")
    return [f"{piece} {rank}" for rank, piece in enumerate(pieces)]


def write(path: Path, lines: Lines, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


@pytest.mark.parametrize(
    ("change", "end"),
    [
        (lambda lines: lines, "\r\n"),
        (lambda lines: lines, "\n\n"),
        (lambda lines: ["", *lines, "  "], "\n"),
        (lambda lines: random.Random(0).sample(lines, len(lines)), "\n"),
        (lambda lines: [line.replace(" ", "\t ") for line in lines], "\n"),
    ],
)
def test_every_way_to_write_a_vocabulary_is_read_alike(
    tokenizer: CTCTokenizer, tmp_path: Path, change: Callable[[Lines], Lines], end: str
) -> None:
    read = CTCTokenizer.from_file(write(tmp_path / "x.tiktoken", change(VOCABULARY.read_text().splitlines()), end))
    assert [read.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_an_empty_token_keeps_its_rank_and_is_never_written(tokenizer: CTCTokenizer, tmp_path: Path) -> None:
    read = CTCTokenizer.from_file(write(tmp_path / "x.tiktoken", with_empty_token(VOCABULARY.read_text().splitlines())))
    empty = len(tokenizer) // 2
    assert len(read) == len(tokenizer) + 1
    assert read.decode([empty]) == ""
    for text in TEXTS:
        assert read.encode(text) == [i + (i >= empty) for i in tokenizer.encode(text)]


def test_ids_are_those_of_funasr(tmp_path: Path) -> None:
    """Of a vocabulary with an empty token, the lines in no order; its own special tokens come after the ranks."""
    lines = with_empty_token(VOCABULARY.read_text().splitlines())
    path = write(tmp_path / "x.tiktoken", random.Random(0).sample(lines, len(lines)))
    command = [sys.executable, str(FUNASR_TOKENIZER), str(path)]
    done = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    ours = CTCTokenizer.from_file(path)
    assert [ours.encode(text) for text in TEXTS] == theirs["ids"]
    assert (theirs["vocab_size"], theirs["last"]) == (len(ours) + NUM_SPECIALS, len(ours) + NUM_SPECIALS - 1)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
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
        (lambda lines: [*lines, "!!! 2348"], "line 2349: expected a base64 token"),
        (lambda lines: [*lines, "QUI 2348"], "line 2349: expected a base64 token"),
        (lambda lines: [*lines, "= 2348", "= 2349"], "1 repeated"),
        (lambda lines: [*lines, "QUJDREVG"], "line 2349: expected a base64 token"),
        (lambda lines: [*lines, "QUJDREVG x"], "line 2349: expected a base64 token"),
        (lambda lines: [*lines, "QUJDREVG 5"], "must be 0 ... 2348, each once"),
        (lambda lines: [*lines, "QUJDREVG 2349"], "must be 0 ... 2348, each once"),
        (lambda lines: [*lines, lines[0].split()[0] + " 2348"], "1 repeated"),
        (lambda lines: lines[256:], "must be 0"),
        (lambda lines: ["QUJDREVG 0"], "256 bytes missing"),
    ],
)
def test_a_broken_vocabulary_is_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / "ctc.tiktoken", change(VOCABULARY.read_text().splitlines()))
    with pytest.raises(CheckpointError, match=message) as caught:
        CTCTokenizer.from_file(path)
    assert "cut short" not in str(caught.value)


def test_an_absent_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        CTCTokenizer.from_file(tmp_path / "none.tiktoken")
