"""A tiny Qwen3-ASR whose weights are a function of their names, made alike with and without the qwen-asr package."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.byte_tokenizer import NUM_BYTES, byte_tokenizer

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>")
TAGS = ("<asr_text>", "<timestamp>")  # which decoding keeps
NUM_TOKENS = 12
AUDIO = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "output_dim": 64,
    "downsample_hidden_size": 16,
    "n_window": 50,
    "n_window_infer": 800,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 320,
    "max_position_embeddings": 8192,
    "rope_theta": 1e6,
    "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    "tie_word_embeddings": True,
}
# Seconds, language, context; at and beyond a window of 8 s. The package convolves a second that is not full as it is,
# unless something longer is in its batch; ours always as a whole one. So the first clip has one second.
CASES: tuple[tuple[float, str | None, str], ...] = (
    (1.0, None, "A call about Qwen, with Ms. O'Neill."),
    (1.58, "English", ""),
    (2.0, None, ""),
    (3.37, "Chinese", "通话内容：千问"),
    (8.0, None, ""),
    (8.5, "German", "Zürich"),
    (12.34, "Cantonese", ""),
    (20.0, None, "two lines\nof context"),
)

ALIGNED = (  # seconds, text, language
    (2.3, "hello there, it's you who said all of this in one long breath", "English"),
    (1.0, "你好，world", "Chinese"),
    (9.7, "Ein   Satz mit «Zeichen»; 100%", "German"),
)
NUM_CLASSES = 400  # of the aligner


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Scales with which greedy answers wander through the vocabulary; biases are zeros."""
    if len(shape) == 1:
        is_sharp = name.endswith(("q_norm.weight", "k_norm.weight"))
        return torch.full(shape, 0.0 if name.endswith("bias") else 2.0 if is_sharp else 1.0)
    scale = (2.5 if name.startswith("thinker.model.") else 1.0) / np.sqrt(np.prod(shape[1:]))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(
        (rng.standard_normal(shape) * (0.05 if "embed_tokens" in name else scale)).astype(np.float32)
    )


def token_id(token: str) -> int:
    return NUM_BYTES + (*SPECIALS, *TAGS).index(token)


def tokenizer() -> Tokenizer:
    return byte_tokenizer(SPECIALS, TAGS)


def write_checkpoint(directory: Path, config: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> None:
    """What the package wrote: its config.json, and tensors of these names and shapes."""
    (directory / "config.json").write_text(json.dumps(config))
    save_file({name: weight(name, tuple(shape)) for name, shape in shapes.items()}, directory / "model.safetensors")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer()).save_pretrained(directory)
