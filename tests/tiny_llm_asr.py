"""A tiny LLMASR checkpoint whose weights are a function of their names, made alike with and without FunASR."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tests.byte_tokenizer import byte_tokenizer

NUM_TOKENS = 12
PROMPT = "Transcribe speech to text."
SECONDS = (0.5, 4.0)
WHISPER = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 64,
    "n_audio_head": 1,
    "n_audio_layer": 2,
    "n_vocab": 10,
    "n_text_ctx": 8,
    "n_text_state": 64,
    "n_text_head": 1,
    "n_text_layer": 1,
}
LLM = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "eos_token_id": 256,
    "bos_token_id": 256,
}
ADAPTORS: dict[str, dict[str, Any]] = {
    "Linear": {"downsample_rate": 5, "llm_dim": 64, "ffn_dim": 96, "encoder_dim": 64},
    "Transformer": {"downsample_rate": 2, "llm_dim": 64, "ffn_dim": 96, "encoder_dim": 64, "n_layer": 2},
    "QFormer": {"downsample_rate": 5, "llm_dim": 64, "ffn_dim": 96, "encoder_dim": 64},
}


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Norms are ones, biases zeros, everything else random."""
    is_norm = any(part in name for part in ("norm", "_ln.", "ln_post", "LayerNorm"))
    if len(shape) == 1:
        return torch.ones(shape) if is_norm and name.endswith("weight") else torch.zeros(shape)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scale = 0.05 if "embed_tokens" in name else 2.0 / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy((rng.standard_normal(shape) * scale).astype(np.float32))


def write_llm(directory: Path) -> None:
    """An ordinary Hugging Face directory with weights."""
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|endoftext|>").save_pretrained(directory)
    config = Qwen2Config(**LLM)
    config.save_pretrained(directory)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in Qwen2ForCausalLM(config).state_dict().items()}
    save_file({n: weight(n, s) for n, s in shapes.items()}, directory / "model.safetensors", {"format": "pt"})


def write_vicuna(directory: Path) -> None:
    """A directory as Vicuna's are: weights from torch.save in two files, with RoPE's frequencies as LLaMA's first code
    saved them, and sentencepiece's tokenizer; config.json leaves num_key_value_heads to the code.
    """
    write_sentencepiece(directory / "tokenizer.model")
    token = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    specials = {f"{name}_token": token | {"content": text} for name, text in (("bos", "<s>"), ("eos", "</s>"))}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | specials))
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "temperature": 0.9, "top_p": 0.6}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    config = LlamaConfig(**LLM | {"eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 2048})
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in LlamaForCausalLM(config).state_dict().items()}
    tensors = {name: weight(name, shape) for name, shape in shapes.items()}
    for layer in range(LLM["num_hidden_layers"]):
        head_dim = LLM["hidden_size"] // LLM["num_attention_heads"]
        inv_freq = 1.0 / 10_000 ** (torch.arange(0, head_dim, 2) / head_dim)
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = inv_freq
    weight_map = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: tensors[name] for name in names}, directory / file)
        weight_map |= dict.fromkeys(names, file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    written = {**config.to_dict(), "architectures": ["LlamaForCausalLM"], "transformers_version": "4.31.0"}
    del written["num_key_value_heads"]
    (directory / "config.json").write_text(json.dumps(written))


def write_sentencepiece(path: Path, **options: object) -> None:
    """A model of LLaMA's kind, trained on PROMPT and little else."""
    words = f"USER INSTRUCTION INPUT {PROMPT} hello world it's what a voice says 你好 世界".split()
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 8)) for _ in range(500)]
    options = {
        "model_type": "bpe",
        "vocab_size": LLM["vocab_size"],
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "num_threads": 1,
        "minloglevel": 2,
        **options,
    }
    SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(path.with_suffix("")), **options)


def write_checkpoint(
    directory: Path, adaptor: str, shapes: Mapping[str, tuple[int, ...]], *, with_llm: bool = False
) -> None:
    """config.yaml and model.pt beside the directory `llm`, whose weights model.pt repeats if asked to."""
    config = {
        "model": "LLMASR",
        "audio_encoder": "iic/Whisper-large-v3",
        "audio_encoder_conf": {"hub": "ms", "freeze": True},
        "llm": "Qwen1.5-7b-chat",
        "llm_conf": {"hub": "hf", "freeze": True, "init_param_path": "llm"},
        "audio_adaptor": adaptor,
        "audio_adaptor_conf": ADAPTORS[adaptor] | {"encoder_dim": 512},  # as in the recipes, wrong and corrected
        "frontend": "WhisperFrontend",
        "frontend_conf": {"fs": 16000, "whisper_model": "large-v3", "do_pad_trim": True, "permute": True},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tensors = {name: weight(name, shape) for name, shape in shapes.items()}
    if with_llm:
        tensors |= {f"llm.{name}": t for name, t in load_file(directory / "llm" / "model.safetensors").items()}
    torch.save(tensors, directory / "model.pt")
