"""A tokenizer.json is enough, whoever wrote it; one in parts is put together, or refused where parts are lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests import tiny_models
from tests.convert.checkpoints import EditCheckpoint
from twostage_asr.convert import llm_tokenizer
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.llm_tokenizer import made_files, stated_eos
from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.manifest import EngineManifest


@pytest.fixture
def no_transformers_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with files that another version of transformers wrote: 4.57 cannot read those of 5."""

    def refuse(*_: object, **__: object) -> None:
        raise AttributeError("'list' object has no attribute 'keys'")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)


@pytest.mark.usefixtures("no_transformers_tokenizer")
def test_where_there_is_a_tokenizer_json_transformers_is_not_asked(edited: EditCheckpoint, tmp_path: Path) -> None:
    checkpoint = edited()
    (checkpoint / "Qwen3-0.6B" / "generation_config.json").unlink()
    path = checkpoint / "Qwen3-0.6B" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": None}))
    assert EngineManifest.read(ensure_converted(checkpoint, progress=False)).llm.eos_token_ids == (2350,)
    qwen = tiny_models.qwen3_asr(tmp_path / "qwen").directory
    assert set(EngineManifest.read(ensure_converted(qwen, progress=False)).llm.eos_token_ids) == {256, 258}


@pytest.mark.usefixtures("no_transformers_tokenizer")
def test_parts_that_transformers_cannot_read_name_its_version(edited: EditCheckpoint) -> None:
    checkpoint = edited()
    (checkpoint / "Qwen3-0.6B" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=rf"cannot be read by transformers {transformers.__version__}: 'list'"):
        ensure_converted(checkpoint, progress=False)


@pytest.mark.parametrize("eos", ["<|im_end|>", {"content": "<|im_end|>", "special": True}])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_the_end_of_a_text_is_read_in_either_form_from_either_file(
    edited: EditCheckpoint, name: str, eos: object
) -> None:
    directory = edited() / "Qwen3-0.6B"
    expected = stated_eos(directory)
    for other in ("tokenizer_config.json", "special_tokens_map.json"):
        (directory / other).write_text("{}")
    assert stated_eos(directory) is None
    (directory / name).write_text(json.dumps({"eos_token": eos}))
    assert stated_eos(directory) == expected == 2350


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[: len(lines) // 2], "0 make no token, and 1047 of 2348 tokens"),
        (lambda lines: [*lines, "Ġzq x"], "1 make no token"),
    ],
)
def test_merges_that_were_lost_are_noticed(
    edited: EditCheckpoint, change: Callable[[list[str]], list[str]], message: str
) -> None:
    directory = edited() / "Qwen3-0.6B"
    (directory / "tokenizer.json").unlink()
    llm_tokenizer._check_merges(directory)
    path = directory / "merges.txt"
    path.write_text("\n".join(change(path.read_text(encoding="utf-8").split("\n")[:-1])) + "\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"merges\.txt is cut short, or not of this vocab\.json: .*{message}"):
        made_files(directory)


def test_a_directory_without_a_tokenizer_says_what_makes_one(tmp_path: Path, edited: EditCheckpoint) -> None:
    directory: Any = edited() / "Qwen3-0.6B"
    for name in ("tokenizer.json", "vocab.json"):
        (directory / name).unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json, or merges\.txt and vocab\.json, or tokenizer\.model"):
        ensure_converted(directory.parent, progress=False)
