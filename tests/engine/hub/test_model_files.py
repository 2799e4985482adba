"""A file that is not what its name says is named as what it is, whichever file it is and whoever reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.paths import CHECKPOINTS
from twostage_asr.convert.checkpoint import read_state_dict
from twostage_asr.convert.config_file import ConfigFile, read_json
from twostage_asr.convert.llm_tokenizer import made_files
from twostage_asr.convert.safetensors_file import read_checkpoint
from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.prompt import EmbeddingTable
from twostage_asr.engine.text import LLMTokenizer
from twostage_asr.engine.words.tokenizer import CTCTokenizer

MICRO = CHECKPOINTS["low_frame_rate"]
TENSORS = {"a": torch.arange(600.0), "b": torch.ones(300, dtype=torch.bfloat16)}
READERS: dict[str, Callable[[Path], object]] = {  # name of the file -> its reader, given the directory
    "config.yaml": lambda d: ConfigFile.read(d / "config.yaml").get("ctc_decoder_conf.n_layer", int),
    "config.json": lambda d: read_json(d / "config.json"),
    "multilingual.tiktoken": lambda d: CTCTokenizer.from_file(d / "multilingual.tiktoken"),
    "tokenizer.json": LLMTokenizer,
    "merges.txt": made_files,
    "vocab.json": made_files,
    "model.pt": lambda d: read_state_dict(d / "model.pt"),
    "model.safetensors": read_checkpoint,
    "pytorch_model.bin": read_checkpoint,
}
IN_PLACE = {
    "is a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n",
    "is a web page": b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>",
    "is empty": b"",
}


def write_whole(directory: Path, name: str) -> Path:
    """The file, and what its reader needs beside it."""
    if name in ("model.pt", "pytorch_model.bin"):
        torch.save(TENSORS, directory / name)
    elif name == "model.safetensors":
        save_file(TENSORS, directory / name)
    else:
        for found in (*MICRO.glob(name), *MICRO.glob(f"*/{name}"), *MICRO.glob("*/vocab.json")):
            (directory / found.name).write_bytes(found.read_bytes())
        (directory / "merges.txt").write_bytes(next(MICRO.glob("*/merges.txt")).read_bytes())
    return directory / name


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("message", IN_PLACE)
def test_what_stands_in_place_of_a_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    write_whole(tmp_path, name).write_bytes(IN_PLACE[message])
    with pytest.raises(CheckpointError, match=f"{name} {message}"):
        READERS[name](tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_half_a_file_is_named(tmp_path: Path, name: str) -> None:
    path = write_whole(tmp_path, name)
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) // 3 + 3):  # within a line
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=f"{name}.* cut short"):
            READERS[name](tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_the_whole_file_is_read(tmp_path: Path, name: str) -> None:
    """So that the refusals above are of what was done to it."""
    if name not in ("merges.txt", "vocab.json"):
        write_whole(tmp_path, name)
        READERS[name](tmp_path)


def test_the_llm_of_a_converted_directory_is_no_exception(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"model.embed_tokens.weight": torch.ones(30, 4)}, path)
    assert EmbeddingTable(tmp_path, torch.float32)([0]).shape == (1, 4)
    for message, content in {**IN_PLACE, "is cut short": path.read_bytes()[:200]}.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"model\.safetensors {message}"):
            EmbeddingTable(tmp_path, torch.float32)


def test_a_file_that_only_begins_like_another_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text": "<!DOCTYPE html>"}))
    assert read_json(tmp_path / "config.json") == {"text": "<!DOCTYPE html>"}
