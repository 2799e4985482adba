"""LLMASR's prompt and its checkpoints: what a tokenizer begins a text with, and honest refusals."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, processors

from tests.convert.checkpoints import read_tensors
from tests.tiny_llm_asr import PROMPT, write_checkpoint, write_llm, write_sentencepiece, write_vicuna
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.verify import verify_conversion
from twostage_asr.encoders.llm_asr import AdaptorKind, LLMASRTower, LLMASRTowerConfig
from twostage_asr.engine import AutoModelVLLM, CheckpointError, ConfigError
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.families.glm_asr import GLMASRNano
from twostage_asr.engine.families.llm_asr import LLMASR
from twostage_asr.engine.manifest import EngineManifest
from twostage_asr.engine.prompt import PromptEmbedder
from twostage_asr.engine.text import LLMTokenizer

SIZES: dict[str, Any] = {"num_mels": 80, "encoder_dim": 64, "num_layers": 2, "num_positions": 1500, "llm_dim": 64}


def write_tower(directory: Path, adaptor: AdaptorKind, **sizes: int) -> Path:
    config = LLMASRTowerConfig(**SIZES, adaptor=adaptor, ffn_dim=96, **sizes)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LLMASRTower(config).state_dict().items()}
    write_checkpoint(directory, adaptor, shapes)
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_llm(tmp_path / "llm")
    return write_tower(tmp_path, "Transformer", downsample_rate=2, n_layer=2)


@pytest.fixture
def vicuna(tmp_path: Path) -> Path:
    (tmp_path / "llm").mkdir()
    write_vicuna(tmp_path / "llm")
    return write_tower(tmp_path, "Linear")


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


def test_a_vicuna_converts_and_transcribes(vicuna: Path) -> None:
    """Its repositories hold neither safetensors nor tokenizer.json."""
    engine_dir = ensure_converted(vicuna, progress=False)
    manifest = EngineManifest.read(engine_dir)
    assert {name for name in manifest.source if name.endswith((".bin", ".model", "index.json"))} == {
        "llm/pytorch_model-00001-of-00002.bin",
        "llm/pytorch_model-00002-of-00002.bin",
        "llm/pytorch_model.bin.index.json",
        "llm/tokenizer.model",
    }
    assert verify_conversion(vicuna, engine_dir).num_tensors == len(read_tensors(engine_dir))
    pieces = SentencePieceProcessor(model_file=str(vicuna / "llm" / "tokenizer.model"))
    with AutoModelVLLM(engine_dir, backend="torch", dtype="fp32") as model:
        prompt = model.transcriber.embedder.embed(LLMASR().prompt_text(Request()))
        text = f"USER: \nINSTRUCTION: {PROMPT}\nINPUT: "
        assert prompt.prefix_ids == (pieces.bos_id(), *pieces.encode(text))
        assert prompt.suffix_ids == ()
        (result,) = model.generate([("clip", clip(1.0), SAMPLE_RATE)], max_new_tokens=8)
    assert result.status == "ok", result.error


def test_weights_from_torch_save_are_those_of_safetensors(vicuna: Path, tmp_path: Path) -> None:
    from_torch = read_tensors(ensure_converted(vicuna, progress=False))
    files = sorted((vicuna / "llm").glob("*.bin"))
    save_file({n: t for file in files for n, t in torch.load(file).items()}, vicuna / "llm" / "model.safetensors")
    for file in files:
        file.unlink()
    from_safetensors = read_tensors(ensure_converted(vicuna, output=tmp_path / "other", progress=False))
    assert from_torch.keys() == from_safetensors.keys()
    assert all(torch.equal(from_torch[name], from_safetensors[name]) for name in from_torch)


def test_a_file_of_torch_save_that_is_missing_is_named(vicuna: Path) -> None:
    (vicuna / "llm" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"has no pytorch_model-00002-of-00002\.bin"):
        ensure_converted(vicuna, progress=False)


def test_an_index_that_leads_elsewhere_is_refused(vicuna: Path) -> None:
    index = {"weight_map": {"a": "../../elsewhere.bin"}}
    (vicuna / "llm" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"weight_map names \.\./\.\./elsewhere\.bin; files beside it"):
        ensure_converted(vicuna, progress=False)


def test_without_sentencepiece_its_model_says_what_to_install(vicuna: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ConfigError, match=r'pip install ".\[sentencepiece\]"'):
        ensure_converted(vicuna, progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "vocab_size": 300},
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
    ],
)
def test_another_kind_of_sentencepiece_is_refused(vicuna: Path, options: dict[str, object]) -> None:
    """transformers takes it for LLaMA's, and would give other tokens than the LLM was trained with."""
    write_sentencepiece(vicuna / "llm" / "tokenizer.model", **options)
    with pytest.raises(CheckpointError, match="makes other tokens of it than sentencepiece; LLaMA's kind is needed"):
        ensure_converted(vicuna, progress=False)


def test_a_damaged_sentencepiece_model_is_refused(vicuna: Path) -> None:
    path = vicuna / "llm" / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is no model of sentencepiece, or is cut short"):
        ensure_converted(vicuna, progress=False)
