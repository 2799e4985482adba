"""Qwen3-ASR and GLM-ASR checkpoints taken apart: strictly, in both layouts of each, and refused with names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen2Tokenizer

from tests import tiny_models
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.families import FAMILIES, find_family
from twostage_asr.engine import CheckpointError
from twostage_asr.engine.manifest import EngineManifest
from twostage_asr.engine.text import LLMTokenizer

State = dict[str, torch.Tensor]


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return tiny_models.qwen3_asr(tmp_path / "qwen", original=True).directory


@pytest.fixture
def glm(tmp_path: Path) -> Path:
    return tiny_models.glm_asr(tmp_path / "glm", old=True).directory


def edit(directory: Path, change: Callable[[State], object]) -> Path:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    return directory


def edit_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return directory


def test_the_llm_is_a_plain_one_without_mrope_and_without_the_tied_head(qwen: Path) -> None:
    converted = ensure_converted(qwen, progress=False)
    config = json.loads((converted / "llm" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen3", ["Qwen3ForCausalLM"])
    assert config["tie_word_embeddings"] is True
    assert not {"rope_scaling", "rope_parameters"} & config.keys()
    assert AutoConfig.from_pretrained(converted / "llm").rope_parameters["rope_theta"] == 1e6
    assert "lm_head.weight" not in load_file(converted / "llm" / "model.safetensors")
    assert set(EngineManifest.read(converted).llm.eos_token_ids) == {256, 258}  # <|endoftext|> and <|im_end|>


def test_a_head_of_its_own_is_kept(qwen: Path) -> None:
    edit(qwen, lambda t: t.update({"thinker.lm_head.weight": t["thinker.lm_head.weight"] + 1}))
    manifest = EngineManifest.read(ensure_converted(qwen, progress=False))
    assert not manifest.llm.tied
    assert any("lm_head differs from embed_tokens" in note for note in manifest.notes)


def test_every_tensor_must_have_its_place(qwen: Path, glm: Path) -> None:
    for directory in (qwen, glm):
        edit(directory, lambda t: t.update({"stranger.weight": torch.zeros(1)}))
        with pytest.raises(CheckpointError, match=r"1 not used by any part of the model: stranger\.weight"):
            ensure_converted(directory, progress=False)


def test_a_missing_tensor_is_named(qwen: Path) -> None:
    edit(qwen, lambda t: t.pop("thinker.audio_tower.proj1.bias"))
    with pytest.raises(CheckpointError, match=r"1 missing: thinker\.audio_tower\.proj1\.bias"):
        ensure_converted(qwen, progress=False)


def test_scaled_rope_is_refused(qwen: Path) -> None:
    scaled = {"rope_type": "yarn", "factor": 4.0}
    edit_config(qwen, lambda c: c["thinker_config"]["text_config"].update(rope_scaling=scaled))
    with pytest.raises(CheckpointError, match="scales RoPE"):
        ensure_converted(qwen, progress=False)


def test_sizes_are_read_and_never_guessed(qwen: Path) -> None:
    edit_config(qwen, lambda c: c["thinker_config"]["audio_config"].pop("n_window"))
    with pytest.raises(CheckpointError, match="audio_config cannot be used: n_window None"):
        ensure_converted(qwen, progress=False)


def test_a_tokenizer_in_parts_is_put_together(qwen: Path) -> None:
    """The published repositories hold vocab.json and merges.txt, and the tags in tokenizer_config.json."""
    whole = json.loads((qwen / "tokenizer.json").read_text())
    (qwen / "tokenizer.json").unlink()
    (qwen / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    (qwen / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in whole["added_tokens"]
    }
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "eos_token": "<|im_end|>"}
    (qwen / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "<|endoftext|>", "unk_token": None}))
    converted = ensure_converted(qwen, progress=False)
    tokenizer, reference = LLMTokenizer(converted / "llm"), Qwen2Tokenizer.from_pretrained(qwen)
    text = "<|im_start|>system\nMcDonald's 你好<|im_end|>language English<asr_text>Hi"
    assert tokenizer.encode(text) == reference.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)).endswith("language English<asr_text>Hi"), "the tag is kept"


def test_an_early_conversion_of_glm_is_refused(glm: Path) -> None:
    edit(glm, lambda t: t.update({"audio_tower.layer_norm.weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="an early conversion whose queries and keys are in the wrong order"):
        ensure_converted(glm, progress=False)


def test_glm_ends_at_each_of_its_three_tokens(glm: Path) -> None:
    assert set(EngineManifest.read(ensure_converted(glm, progress=False)).llm.eos_token_ids) == {256, 257, 259}


def test_a_shard_that_is_missing_is_named(qwen: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (qwen / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"has no model-00001-of-00002\.safetensors, model-00002"):
        ensure_converted(qwen, progress=False)


@pytest.mark.parametrize(
    ("model", "kind"),
    [("Paraformer", "non-autoregressive"), ("SenseVoiceSmall", "CTC"), ("CTTransformer", "punctuation")],
)
def test_models_without_an_llm_are_refused_with_what_to_use(tmp_path: Path, model: str, kind: str) -> None:
    (tmp_path / "config.yaml").write_text(f"model: {model}\n")
    with pytest.raises(CheckpointError, match=rf"is a {model}, a {kind} .*use funasr\.AutoModel for it"):
        find_family(tmp_path)


def test_an_unknown_checkpoint_is_told_what_was_found_and_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(CheckpointError) as caught:
        find_family(tmp_path)
    message = str(caught.value)
    assert "model_type in config.json says 'whisper'; it holds config.json" in message
    assert all(family.examples[0] in message for family in FAMILIES.values())
