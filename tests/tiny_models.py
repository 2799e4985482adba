"""Tiny checkpoints with random weights, built by transformers' own classes, and what those classes make of clips.

The scales are such that greedy answers wander through the vocabulary with clear leads, instead of repeating a token.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    FunAsrNanoConfig,
    FunAsrNanoFeatureExtractor,
    FunAsrNanoForConditionalGeneration,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    WhisperFeatureExtractor,
)
from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor

from tests.byte_tokenizer import byte_tokenizer
from tests.tiny_qwen_asr import SPECIALS as QWEN_SPECIALS
from tests.tiny_qwen_asr import TAGS as QWEN_TAGS
from tests.tones import SAMPLE_RATE

VOCAB = 320
LLM_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
}
QWEN_TOWER = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "output_dim": 64,
    "downsample_hidden_size": 16,
}
FUN_ASR_SPECIALS = ("<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|object_ref_start|>")
GLM_SPECIALS = (
    "<|endoftext|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|pad|>",
    "<|begin_of_audio|>",
    "<|end_of_audio|>",
)

Inputs = dict[str, torch.Tensor]  # of a reference model


@dataclass(frozen=True)
class Reference:
    """A checkpoint, the model that it was saved from, and what that is given for a clip, a prefix and a suffix."""

    directory: Path
    model: Any
    inputs: Callable[[np.ndarray, list[int], list[int]], Inputs]

    @torch.inference_mode()
    def answer(self, waveform: np.ndarray, prefix: list[int], suffix: list[int], num_tokens: int) -> list[int]:
        """The greedy tokens; nothing ends them."""
        inputs = self.inputs(waveform, prefix, suffix)
        inputs["input_features"] = inputs["input_features"].to(self.model.dtype)
        generated = self.model.generate(
            **inputs, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False, eos_token_id=VOCAB - 1
        )
        return generated[0, inputs["input_ids"].shape[1] :].tolist()

    def fitted(
        self, clips: Sequence[np.ndarray], targets: Sequence[list[int]], prompt: tuple[list[int], list[int]]
    ) -> None:
        """Train the model until it writes `targets`, with clear leads, and save it again."""
        rows = [self.inputs(clip, prompt[0], prompt[1] + target) for clip, target in zip(clips, targets, strict=True)]
        self.model.train()
        optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        for _ in range(120):
            loss = torch.stack(
                [
                    self.model(**row, labels=_last(row["input_ids"], len(target))).loss
                    for row, target in zip(rows, targets, strict=True)
                ]
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if loss < 0.1:
                break
        self.model.eval().save_pretrained(self.directory)


@dataclass(frozen=True)
class FunASRNanoReference(Reference):
    """Transformers' model, given what FunASR gives to its own: the first ceil(T / 8) of T adaptor frames."""

    def hear(self, waveform: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder output (T, width) and adaptor output (T, LLM's width)."""
        heard = self.model.get_audio_features(**self.inputs(waveform, [], []))
        return heard.last_hidden_state[0], heard.pooler_output

    @torch.inference_mode()
    def answer(self, waveform: np.ndarray, prefix: list[int], suffix: list[int], num_tokens: int) -> list[int]:
        frames = self.hear(waveform)[1]
        embed = self.model.get_input_embeddings()
        before, after = (embed(torch.tensor(ids)) for ids in (prefix, suffix))
        prompt = torch.cat([before, frames[: math.ceil(len(frames) / 8)], after])
        generated = self.model.generate(
            inputs_embeds=prompt[None], max_new_tokens=num_tokens, do_sample=False, eos_token_id=VOCAB - 1
        )
        return generated[0].tolist()


def write_tokenizer(directory: Path, specials: Sequence[str], tags: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """See byte_tokenizer; texts end with the first of `specials`."""
    tokenizer = byte_tokenizer(specials, tags)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=specials[0], pad_token=specials[0])
    fast.save_pretrained(directory)
    return fast


def randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            scale = 0.05
        elif weight.ndim > 1:
            scale = (2.5 if "language_model" in name else 1.0) * weight[0].numel() ** -0.5
        else:
            continue
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    for name, weight in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            nn.init.constant_(weight, 2.0)


def qwen3_asr(directory: Path, *, original: bool = False, seed: int = 0) -> Reference:
    """A Qwen3-ASR in transformers' layout, or the same one in the original layout."""
    tokenizer = write_tokenizer(directory, QWEN_SPECIALS, QWEN_TAGS)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*QWEN_SPECIALS, *QWEN_TAGS)}
    config = Qwen3ASRConfig(
        audio_config=QWEN_TOWER,
        text_config={**LLM_SIZES, "tie_word_embeddings": True, "rope_theta": 1e6},
        audio_token_id=ids["<|audio_pad|>"],
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
    )
    model = Qwen3ASRForConditionalGeneration(config).eval()
    randomise(model, seed)
    model.save_pretrained(directory)
    if original:
        _to_original_qwen(directory)
    extractor = Qwen3ASRFeatureExtractor()

    def inputs(waveform: np.ndarray, prefix: list[int], suffix: list[int]) -> Inputs:
        features = extractor(waveform, sampling_rate=SAMPLE_RATE, padding=True, return_attention_mask=True)
        mask = torch.as_tensor(features["attention_mask"])
        seconds, rest = divmod(int(mask.sum()), 100)
        audio = [config.audio_token_id] * (13 * seconds + -(-rest // 8))
        return _inputs([*prefix, *audio, *suffix], features["input_features"], mask)

    return Reference(directory, model, inputs)


def glm_asr(directory: Path, *, old: bool = False, seed: int = 0) -> Reference:
    """A GLM-ASR-Nano in transformers' layout, or the same one in the layout that came before it."""
    tokenizer = write_tokenizer(directory, GLM_SPECIALS)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in GLM_SPECIALS}
    ends = [ids[token] for token in ("<|endoftext|>", "<|user|>", "<|observation|>")]
    config = GlmAsrConfig(
        audio_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
        text_config={**LLM_SIZES, "eos_token_id": ends},
        audio_token_id=ids["<|pad|>"],
    )
    model = GlmAsrForConditionalGeneration(config).eval()
    randomise(model, seed)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(directory)
    if old:
        _to_old_glm(directory, config)
    extractor = WhisperFeatureExtractor(feature_size=128)

    def inputs(waveform: np.ndarray, prefix: list[int], suffix: list[int]) -> Inputs:
        pieces = [waveform[i : i + 30 * SAMPLE_RATE] for i in range(0, len(waveform), 30 * SAMPLE_RATE)]
        features = extractor(pieces, sampling_rate=SAMPLE_RATE, return_attention_mask=True, return_tensors="pt")
        mask = features["attention_mask"]
        audio = [config.audio_token_id] * (((int(mask.sum()) - 1) // 2 + 1 - 4) // 4 + 1)
        return _inputs([*prefix, *audio, *suffix], features["input_features"], mask)

    return Reference(directory, model, inputs)


def fun_asr_nano(directory: Path, *, vllm: bool = False, seed: int = 0) -> FunASRNanoReference:
    """A Fun-ASR-Nano in transformers' layout, or the same one in vLLM's."""
    tokenizer = write_tokenizer(directory, FUN_ASR_SPECIALS)
    config = FunAsrNanoConfig(
        audio_config={
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "num_hidden_layers": 5,
            "num_timestamp_prediction_layers": 2,
        },
        adaptor_config={"hidden_size": 64, "intermediate_size": 16, "projector_hidden_size": 2048},
        text_config={
            **LLM_SIZES,
            "tie_word_embeddings": True,
            "rope_theta": 1e6,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|object_ref_start|>"),
    )
    model = FunAsrNanoForConditionalGeneration(config).eval()
    randomise(model, seed)
    model.save_pretrained(directory)
    extractor = FunAsrNanoFeatureExtractor()
    (directory / "processor_config.json").write_text(json.dumps({"feature_extractor": extractor.to_dict()}))
    if vllm:
        _to_vllm_fun_asr_nano(directory)

    def inputs(waveform: np.ndarray, prefix: list[int], suffix: list[int]) -> Inputs:
        return dict(extractor(waveform, sampling_rate=SAMPLE_RATE))

    return FunASRNanoReference(directory, model, inputs)


def _inputs(ids: list[int], features: Any, mask: torch.Tensor) -> Inputs:
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "input_features": torch.as_tensor(features),
        "input_features_mask": mask,
    }


def _last(ids: torch.Tensor, count: int) -> torch.Tensor:
    """Labels of the last `count` tokens."""
    labels = ids.clone()
    labels[:, :-count] = -100
    return labels


def _to_original_qwen(directory: Path) -> None:
    names = {
        "model.multi_modal_projector.linear_1": "thinker.audio_tower.proj1",
        "model.multi_modal_projector.linear_2": "thinker.audio_tower.proj2",
        "model.audio_tower": "thinker.audio_tower",
        "model.language_model": "thinker.model",
    }
    tensors = load_file(directory / "model.safetensors")
    for new, old in names.items():
        tensors = {old + n.removeprefix(new) if n.startswith(new + ".") else n: t for n, t in tensors.items()}
    tensors["thinker.lm_head.weight"] = tensors["thinker.model.embed_tokens.weight"].clone()
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    text = config["text_config"]
    rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "interleaved": True, "mrope_interleaved": True}
    text |= {
        "rope_theta": text.pop("rope_parameters")["rope_theta"],
        "rope_scaling": rope,
        "model_type": "qwen3_asr_text",
    }
    thinker = {"model_type": "qwen3_asr", "audio_config": config["audio_config"], "text_config": text}
    written = {"model_type": "qwen3_asr", "architectures": config["architectures"], "thinker_config": thinker}
    (directory / "config.json").write_text(json.dumps(written))


def _to_old_glm(directory: Path, config: GlmAsrConfig) -> None:
    """Rows of queries and keys go back to neighbours: the reverse of what the converter does, written another way."""
    heads = config.audio_config.num_attention_heads
    head_dim = config.audio_config.hidden_size // heads
    turned = head_dim // 2
    tensors: dict[str, torch.Tensor] = {"audio_encoder.proj.weight": torch.zeros(2, 2)}
    for name, tensor in load_file(directory / "model.safetensors").items():
        old = name.replace("language_model.model.model.", "model.").replace("language_model.", "")
        if "audio_tower" in name and ("q_proj" in name or "k_proj" in name):
            rows = tensor.reshape(heads, head_dim, -1).clone()
            for pair in range(turned // 2):
                rows[:, 2 * pair] = tensor.reshape(heads, head_dim, -1)[:, pair]
                rows[:, 2 * pair + 1] = tensor.reshape(heads, head_dim, -1)[:, turned // 2 + pair]
            tensor = rows.reshape(tensor.shape)
        old = old.replace("audio_tower.norm.", "audio_encoder.layer_norm.").replace(
            "audio_tower.", "audio_encoder.whisper."
        )
        old = old.replace("multi_modal_projector.linear_1", "audio_encoder.adapting.0")
        old = old.replace("multi_modal_projector.linear_2", "audio_encoder.adapting.2")
        if "audio_encoder.whisper" in old:
            old = old.replace("o_proj", "out_proj").replace("input_layernorm", "self_attn_layer_norm")
            old = old.replace("post_attention_layernorm", "final_layer_norm").replace("mlp.", "")
        tensors[old] = tensor
    tensors["audio_encoder.whisper.embed_positions.weight"] = torch.zeros(1500, heads * head_dim)
    tensors["audio_encoder.audio_bos_eos_token.weight"] = torch.zeros(2, LLM_SIZES["hidden_size"])
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    new = json.loads((directory / "config.json").read_text())
    audio = new["audio_config"]
    whisper = {
        "d_model": audio["hidden_size"],
        "encoder_layers": audio["num_hidden_layers"],
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": audio["intermediate_size"],
        "num_mel_bins": 128,
    }
    written = {"model_type": "Glmasr", "adapter_type": "mlp", "merge_factor": 4, "use_rope": True}
    (directory / "config.json").write_text(
        json.dumps({**written, "lm_config": new["text_config"], "whisper_config": whisper})
    )


def _to_vllm_fun_asr_nano(directory: Path) -> None:
    """FunASR's names: the reverse of what the converter does, written another way."""
    layers = {0: "encoders0.0", 1: "encoders.0", 2: "encoders.1", 3: "tp_encoders.0", 4: "tp_encoders.1"}
    tensors: dict[str, torch.Tensor] = {}
    stored = load_file(directory / "model.safetensors")
    for name, tensor in stored.items():
        old = name.replace("model.language_model", "llm.model").replace("model.multi_modal_projector", "audio_adaptor")
        if not old.startswith("llm."):
            old = old.replace("mlp.fc", "feed_forward.w_").replace("fsmn.conv", "fsmn_block")
            old = old.replace("input_layernorm", "norm1").replace("post_attention_layernorm", "norm2")
            old = re.sub(r"self_attn\.([qkv])_proj", r"self_attn.linear_\1", old).replace("o_proj", "linear_out")
            old = re.sub(r"^audio_adaptor\.layers", "audio_adaptor.blocks", old).replace("linear_1", "linear1")
            old = old.replace("linear_2", "linear2").replace("model.audio_tower.layers.4.final_layernorm", "tp_norm")
            old = old.replace("model.audio_tower.layers.2.final_layernorm", "after_norm")
            old = re.sub(r"^model\.audio_tower\.layers\.(\d)", lambda layer: layers[int(layer[1])], old)
            old = old if old.startswith("audio_") else f"audio_encoder.{old}"
        if old.startswith("audio_encoder.") and "linear_q." in old:
            rest = [stored[name.replace("q_proj", part)] for part in ("k_proj", "v_proj")]
            tensors[old.replace("linear_q", "linear_q_k_v")] = torch.cat([tensor, *rest])
        elif not (old.startswith("audio_encoder.") and ("linear_k." in old or "linear_v." in old)):
            tensors[old] = tensor
    tensors["llm.lm_head.weight"] = tensors["llm.model.embed_tokens.weight"].clone()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    encoder = {"output_size": 64, "attention_heads": 4, "linear_units": 128, "num_blocks": 3, "tp_blocks": 2}
    written = {**config["text_config"], "architectures": ["FunASRForConditionalGeneration"]}
    written["audio_encoder_conf"] = {**encoder, "kernel_size": 11, "sanm_shfit": 0}
    (directory / "config.json").write_text(json.dumps(written))
    (directory / "processor_config.json").unlink()
    frontend = {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10}
    (directory / "preprocessor_config.json").write_text(
        json.dumps({"frontend_conf": {**frontend, "lfr_m": 7, "lfr_n": 6, "cmvn_file": None}})
    )


def qwen3_forced_aligner(directory: Path, *, num_classes: int = 400, seed: int = 0) -> Any:
    """A Qwen3-ForcedAligner in transformers' layout; returns the model."""
    tokenizer = write_tokenizer(directory, QWEN_SPECIALS, QWEN_TAGS)
    config = Qwen3ASRConfig(
        audio_config=QWEN_TOWER,
        text_config={**LLM_SIZES, "tie_word_embeddings": False, "rope_theta": 1e6},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        timestamp_token_id=tokenizer.convert_tokens_to_ids("<timestamp>"),
        num_labels=num_classes,
    )
    model = Qwen3ASRForTokenClassification(config).eval()
    randomise(model, seed)
    model.save_pretrained(directory)
    return model
