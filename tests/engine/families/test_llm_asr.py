"""LLMASR's prompt and its checkpoints: what a tokenizer begins a text with, and honest refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors

from tests.tiny_llm_asr import write_checkpoint, write_llm
from twostage_asr.convert.export import ensure_converted
from twostage_asr.encoders.llm_asr import LLMASRTower, LLMASRTowerConfig
from twostage_asr.engine import CheckpointError, ConfigError
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.families.glm_asr import GLMASRNano
from twostage_asr.engine.families.llm_asr import LLMASR
from twostage_asr.engine.manifest import EngineManifest
from twostage_asr.engine.prompt import PromptEmbedder
from twostage_asr.engine.text import LLMTokenizer

SIZES: dict[str, Any] = {"num_mels": 80, "encoder_dim": 64, "num_layers": 2, "num_positions": 1500, "llm_dim": 64}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = LLMASRTowerConfig(**SIZES, adaptor="Transformer", ffn_dim=96, downsample_rate=2, n_layer=2)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LLMASRTower(config).state_dict().items()}
    write_llm(tmp_path / "llm")
    write_checkpoint(tmp_path, "Transformer", shapes)
    return tmp_path


def edit_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def test_the_prompt_begins_as_the_tokenizer_begins_a_text(checkpoint: Path) -> None:
    """Vicuna's puts <s> there; FunASR's `tokenizer.encode` does, too."""
    path = checkpoint / "llm" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<s>"])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer.save(str(path))
    ours = LLMTokenizer(checkpoint / "llm")
    prompt = PromptEmbedder(checkpoint / "llm", ours, torch.float32).embed(LLMASR().prompt_text(Request()))
    assert prompt.prefix_ids == (bos, *ours.encode("USER: \nINSTRUCTION: Transcribe speech to text.\nINPUT: "))
    assert prompt.suffix_ids == ()


def test_nothing_that_was_said_is_cut_from_the_answer() -> None:
    assert LLMASR().parse_answer(" he said: go ", Request()).text == "he said: go"


def test_the_transformer_adaptor_and_the_llm_s_own_directory_convert(checkpoint: Path) -> None:
    manifest = EngineManifest.read(ensure_converted(checkpoint, progress=False))
    assert (manifest.acoustic["adaptor"], manifest.acoustic["n_layer"]) == ("Transformer", 2)
    assert "llm/model.safetensors" in manifest.source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(audio_adaptor="Perceiver"), "audio_adaptor is 'Perceiver'; one of Linear, Transformer"),
        (lambda c: c["llm_conf"].update(init_param_path="/no/where"), "/no/where does not exist"),
        (lambda c: c["llm_conf"].update(init_param_path="a/b", hub="torch"), "llm_conf.hub is 'torch'; one of hf, ms"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    checkpoint: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_config(checkpoint, change)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        ensure_converted(checkpoint, progress=False)


def test_another_encoder_than_whisper_s_is_refused(checkpoint: Path) -> None:
    tensors = torch.load(checkpoint / "model.pt", weights_only=True)
    torch.save(
        {name.replace(".conv1.", ".conv0."): tensor for name, tensor in tensors.items()}, checkpoint / "model.pt"
    )
    with pytest.raises(CheckpointError, match="holds no Whisper encoder"):
        ensure_converted(checkpoint, progress=False)


def test_a_changed_llm_is_converted_again(checkpoint: Path) -> None:
    first = EngineManifest.read(ensure_converted(checkpoint, progress=False))
    weights = load_file(checkpoint / "llm" / "model.safetensors")
    save_file(
        weights | {"model.norm.weight": weights["model.norm.weight"] + 1}, checkpoint / "llm" / "model.safetensors"
    )
    second = EngineManifest.read(ensure_converted(checkpoint, progress=False))
    assert first.source["llm/model.safetensors"] != second.source["llm/model.safetensors"]
    assert json.loads((checkpoint / "twostage" / "engine.json").read_text())["family"] == "llm_asr"


@pytest.mark.parametrize("family", [LLMASR(), GLMASRNano()])
@pytest.mark.parametrize(
    "request_", [Request(language="en"), Request(hotwords=("x",)), Request(itn=False), Request(context="x")]
)
def test_what_a_prompt_has_no_place_for_is_refused(family: LLMASR | GLMASRNano, request_: Request) -> None:
    with pytest.raises(ConfigError, match="has no place for it; leave it out"):
        family.prompt_text(request_)
