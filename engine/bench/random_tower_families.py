"""Write Qwen3-ASR (0.6B, 1.7B), its forced aligner and GLM-ASR-Nano with random weights, laid out as on a hub.

They have the published sizes, and random texts. The tokenizers are stand-ins: 256 byte symbols, words of four letters
up to the real vocabulary size, and the special tokens at their published ids. A few ids of GLM-ASR-Nano are not known;
those tokens are placed near the others. A forced aligner reads such a text letter by letter, which makes 6 tokens of a
word and its two times, where it makes about 3 of real words.
vLLM's own single-stage models load the same directories.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ...convert.llm import transformers_model
from ...encoders.glm_asr import GLMASRTower, GLMASRTowerConfig
from ...encoders.qwen3_asr import Qwen3ASRTower, Qwen3ASRTowerConfig
from .random_checkpoint import four_letters

DTYPE = torch.bfloat16
FEATURES = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
    "n_samples": 480_000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of one model."""

    tower: Qwen3ASRTowerConfig | GLMASRTowerConfig
    llm: dict[str, int]  # by the names of config.json
    first_special: int  # id of the first special token


QWEN3_ASR_0_6B = Sizes(
    tower=Qwen3ASRTowerConfig(
        d_model=896, encoder_layers=18, encoder_attention_heads=14, encoder_ffn_dim=3584, output_dim=1024
    ),
    llm={
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
    first_special=151_643,
)
QWEN3_ASR_1_7B = Sizes(
    tower=Qwen3ASRTowerConfig(
        d_model=1024, encoder_layers=24, encoder_attention_heads=16, encoder_ffn_dim=4096, output_dim=2048
    ),
    llm=QWEN3_ASR_0_6B.llm | {"hidden_size": 2048, "intermediate_size": 6144},
    first_special=151_643,
)
QWEN3_FORCED_ALIGNER = Sizes(
    tower=Qwen3ASRTowerConfig(
        d_model=1024, encoder_layers=24, encoder_attention_heads=16, encoder_ffn_dim=4096, output_dim=1024
    ),
    llm=QWEN3_ASR_0_6B.llm,
    first_special=151_643,
)
NUM_ALIGNER_CLASSES = 5000
GLM_ASR_NANO = Sizes(
    tower=GLMASRTowerConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        llm_dim=2048,
        rotary_dim=32,
    ),
    llm={
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 59_264,
    },
    first_special=59_246,
)
_QWEN_SPECIALS = {  # id - first_special -> token
    0: "<|endoftext|>",
    1: "<|im_start|>",
    2: "<|im_end|>",
    26: "<|audio_start|>",
    27: "<|audio_end|>",
    33: "<|audio_pad|>",
    61: "<asr_text>",
    62: "<timestamp>",
}
_QWEN_TAGS = ("<asr_text>", "<timestamp>")  # added as ordinary tokens, so that decoding keeps them
_GLM_SPECIALS = {
    0: "<|endoftext|>",
    7: "<|user|>",
    8: "<|assistant|>",
    9: "<|observation|>",
    14: "<|pad|>",
    15: "<|begin_of_audio|>",
    16: "<|end_of_audio|>",
}


def write_qwen3_asr(directory: Path, sizes: Sizes = QWEN3_ASR_0_6B, *, num_classes: int | None = None) -> None:
    """Write Qwen3-ASR in its original layout; it is the same in every call.

    With `num_classes`, it is a forced aligner, whose head chooses among so many times.
    """
    assert isinstance(sizes.tower, Qwen3ASRTowerConfig)
    torch.manual_seed(0)
    ids = _write_tokenizer(
        directory,
        sizes.first_special,
        _QWEN_SPECIALS,
        tags=_QWEN_TAGS,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "audio_token": "<|audio_pad|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
    )
    text = _llm_config(sizes, "qwen3", max_position_embeddings=65_536, rms_norm_eps=1e-6, tie_word_embeddings=True)
    text |= {"rope_theta": 1e6}
    tower = Qwen3ASRTower(sizes.tower).to(DTYPE).state_dict()
    tensors = {f"thinker.audio_tower.{name}": tensor for name, tensor in tower.items()}
    tensors |= {f"thinker.{name}": tensor for name, tensor in _llm_weights(text).items()}
    if num_classes is not None:
        tensors["thinker.lm_head.weight"] = 0.02 * torch.randn(num_classes, sizes.llm["hidden_size"], dtype=DTYPE)
    rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "interleaved": True, "mrope_interleaved": True}
    audio = asdict(sizes.tower) | {"conv_chunksize": 500, "max_source_positions": 1500, "activation_function": "gelu"}
    thinker = {
        "model_type": "qwen3_asr" if num_classes is None else "qwen3_forced_aligner",
        "audio_config": audio | {"model_type": "qwen3_asr_audio_encoder", "scale_embedding": False},
        "text_config": text | {"model_type": "qwen3_asr_text", "rope_scaling": rope},
        "audio_token_id": ids["<|audio_pad|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
        "audio_end_token_id": ids["<|audio_end|>"],
        "dtype": "bfloat16",
    }
    config = {"model_type": "qwen3_asr", "architectures": ["Qwen3ASRForConditionalGeneration"]}
    ends = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]}
    _write(directory, tensors, config | {"thinker_config": thinker, "support_languages": ["Chinese", "English"]}, ends)


def write_qwen3_forced_aligner(directory: Path, sizes: Sizes = QWEN3_FORCED_ALIGNER) -> None:
    """Write Qwen3-ForcedAligner in its original layout; it is the same in every call."""
    write_qwen3_asr(directory, sizes, num_classes=NUM_ALIGNER_CLASSES)


def write_glm_asr(directory: Path, sizes: Sizes = GLM_ASR_NANO) -> None:
    """Write GLM-ASR-Nano in the layout of transformers; it is the same in every call."""
    assert isinstance(sizes.tower, GLMASRTowerConfig)
    torch.manual_seed(0)
    ids = _write_tokenizer(
        directory, sizes.first_special, _GLM_SPECIALS, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    ends = {"eos_token_id": [ids["<|endoftext|>"], ids["<|user|>"], ids["<|observation|>"]]}
    text = _llm_config(sizes, "llama", max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True)
    text |= {"rope_theta": 10_000.0, **ends}
    tower = GLMASRTower(sizes.tower).to(DTYPE).state_dict()
    bridge = {name: tensor for name, tensor in tower.items() if name.startswith("linear_")}
    tensors = {f"audio_tower.{name}": tensor for name, tensor in tower.items() if name not in bridge}
    tensors |= {f"multi_modal_projector.{name}": tensor for name, tensor in bridge.items()}
    tensors |= {f"language_model.{name}": tensor for name, tensor in _llm_weights(text).items()}
    audio = {name: value for name, value in asdict(sizes.tower).items() if name not in ("llm_dim", "rotary_dim")}
    audio |= {"model_type": "glmasr_encoder", "num_key_value_heads": sizes.tower.num_attention_heads}
    rope = {"partial_rotary_factor": 0.5, "rope_theta": audio.pop("rope_theta"), "rope_type": "default"}
    config = {
        "model_type": "glmasr",
        "architectures": ["GlmAsrForConditionalGeneration"],
        "audio_config": audio | {"rope_parameters": rope},
        "text_config": text,
        "audio_token_id": ids["<|pad|>"],
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    (directory / "processor_config.json").write_text(
        json.dumps({"processor_class": "GlmAsrProcessor", "audio_token": "<|pad|>"}), encoding="utf-8"
    )
    _write(directory, tensors, config, ends)


def _llm_config(sizes: Sizes, model_type: str, **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, "hidden_act": "silu", "attention_bias": False, **sizes.llm, **more}


def _llm_weights(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Random weights of the LLM, with a separate lm_head as in the published files."""
    llm_config, llm_class = transformers_model(config)
    return dict(llm_class(llm_config).to(DTYPE).state_dict())


def _write_tokenizer(
    directory: Path, first_special: int, specials: Mapping[int, str], tags: tuple[str, ...] = (), **named: Any
) -> dict[str, int]:
    """Write the stand-in tokenizer; returns the id of each special token and tag."""
    directory.mkdir(parents=True, exist_ok=True)
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    vocab |= {"Ġ" + four_letters(i): i for i in range(len(symbols), first_special)}  # Ġ stands for a space
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for place in range(max(specials) + 1):
        token = specials.get(place, f"<|special_{place}|>")
        add = tokenizer.add_tokens if token in tags else tokenizer.add_special_tokens
        add([token])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(directory)
    return {token: first_special + place for place, token in specials.items()}


def _write(directory: Path, tensors: Mapping[str, Tensor], config: object, generation: object) -> None:
    weights = {name: tensor.clone() for name, tensor in tensors.items()}  # safetensors refuses shared memory
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    for name, content in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("preprocessor_config.json", FEATURES),
    ):
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
