"""Fun-ASR-Nano in the layouts of transformers and vLLM (repositories `-hf` and `-vllm`), read under FunASR's names.

Both are a directory with config.json, safetensors and the tokenizer, without a CTC head. vLLM's layout keeps FunASR's
names of tensors. Its config.json has FunASR's `audio_encoder_conf` beside the LLM's sizes; the adaptor's sizes are
fixed in vLLM's code. Transformers' layout has its own names, numbers the layers of both halves of the encoder
consecutively, and stores queries, keys and values separately.

The weights are FunASR's, and the engine runs them as FunASR does. Transformers' model differs from that in three
points, which no checkpoint states. It gives the LLM all T adaptor frames instead of the first ceil(T / 8). The
LayerNorms of its adaptor have eps 1e-5 instead of 1e-12. It does not scale samples to 16 bits, which adds one constant
to every feature; the encoder's first LayerNorm removes it, except for features at the floor of the logarithm. The
encoder of vLLM's model has eps 1e-12 instead of 1e-5.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..encoders import SAMPLE_RATE, fbank
from ..engine.errors import CheckpointError
from .config_file import CONFIG_NAME, ConfigFile, read_json
from .llm import nested_llm_config
from .safetensors_file import read_checkpoint

Requirements = Mapping[str, tuple[object, object]]  # key -> the only implemented value, the default
PREPROCESSOR_NAMES = ("preprocessor_config.json", "processor_config.json")  # the first that exists is read
WINDOW_MS = fbank.WINDOW_SAMPLES * 1000 // SAMPLE_RATE
HOP_MS = fbank.HOP_SAMPLES * 1000 // SAMPLE_RATE
FRONTEND: Requirements = {
    "frontend_conf.cmvn_file": (None, None),
    "frontend_conf.fs": (SAMPLE_RATE, 16_000),
    "frontend_conf.window": ("hamming", "hamming"),
    "frontend_conf.n_mels": (fbank.NUM_MELS, 80),
    "frontend_conf.frame_length": (WINDOW_MS, 25),
    "frontend_conf.frame_shift": (HOP_MS, 10),
    "frontend_conf.lfr_m": (fbank.LFR_M, 1),
    "frontend_conf.lfr_n": (fbank.LFR_N, 1),
    "frontend_conf.snip_edges": (True, True),
    "frontend_conf.upsacle_samples": (True, True),  # FunASR's spelling
}
_TRANSFORMERS_FRONTEND: Requirements = {  # the defaults are those of FunAsrNanoFeatureExtractor
    "sampling_rate": (SAMPLE_RATE, 16_000),
    "window": ("hamming", "hamming"),
    "feature_size": (fbank.NUM_MELS, 80),
    "frame_length": (WINDOW_MS, 25),
    "frame_shift": (HOP_MS, 10),
    "num_frames_lfr": (fbank.LFR_M, 7),
    "stride_lfr": (fbank.LFR_N, 6),
}
_TRANSFORMERS_IMPLEMENTED: Requirements = {
    "audio_config.hidden_act": ("relu", "relu"),
    "audio_config.num_mel_bins": (fbank.NUM_MELS, 80),
    "audio_config.num_stacked_frames": (fbank.LFR_M, 7),
    "adaptor_config.hidden_act": ("relu", "relu"),
    "adaptor_config.projector_hidden_act": ("relu", "relu"),
}
_TRANSFORMERS_KEYS: Mapping[str, tuple[str, str]] = {  # key in config.json -> section and key of FunASR's config.yaml
    "audio_config.hidden_size": ("audio_encoder_conf", "output_size"),
    "audio_config.num_attention_heads": ("audio_encoder_conf", "attention_heads"),
    "audio_config.intermediate_size": ("audio_encoder_conf", "linear_units"),
    "audio_config.fsmn_kernel_size": ("audio_encoder_conf", "kernel_size"),
    "adaptor_config.num_attention_heads": ("audio_adaptor_conf", "attention_heads"),
    "adaptor_config.num_hidden_layers": ("audio_adaptor_conf", "n_layer"),
    "adaptor_config.projector_hidden_size": ("audio_adaptor_conf", "ffn_dim"),
}
_EARLY = "audio_config.num_timestamp_prediction_blocks"  # only early conversions, before transformers 5.17, have it
_NAMES_IN_A_LAYER: Mapping[str, str] = {  # of encoder and adaptor: transformers' name -> FunASR's
    "self_attn.q_proj.": "self_attn.linear_q.",
    "self_attn.k_proj.": "self_attn.linear_k.",
    "self_attn.v_proj.": "self_attn.linear_v.",
    "self_attn.o_proj.": "self_attn.linear_out.",
    "self_attn.fsmn.conv.": "self_attn.fsmn_block.",
    "mlp.fc1.": "feed_forward.w_1.",
    "mlp.fc2.": "feed_forward.w_2.",
    "input_layernorm.": "norm1.",
    "post_attention_layernorm.": "norm2.",
}
_QUERY = re.compile(r"(audio_encoder\..*\.self_attn\.linear_)q(\.weight|\.bias)")
# As FunASRForConditionalGeneration fixes them (vllm/model_executor/models/funasr.py).
_VLLM_ADAPTOR = {"downsample_rate": 1, "use_low_frame_rate": True, "ffn_dim": 2048, "n_layer": 2, "attention_heads": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A layout other than FunASR's. Each function takes a checkpoint's directory and raises CheckpointError."""

    read_config: Callable[[Path], ConfigFile]  # the sizes, under FunASR's keys
    read_llm_config: Callable[[Path], dict[str, Any]]
    read_tensors: Callable[[Path], dict[str, Tensor]]  # under FunASR's names


def find_layout(directory: Path) -> Layout | None:
    """The layout that config.json shows; None for FunASR's layout and for other models."""
    path = directory / CONFIG_NAME
    config = read_json(path) if path.is_file() else {}
    if config.get("model_type") == "fun_asr_nano":
        return TRANSFORMERS
    return VLLM if "FunASRForConditionalGeneration" in (config.get("architectures") or []) else None


def list_preprocessors(directory: Path) -> list[Path]:
    """The file that says how features are computed, if there is one."""
    return [path for name in PREPROCESSOR_NAMES if (path := directory / name).is_file()][:1]


def _transformers_config(directory: Path) -> ConfigFile:
    path = directory / CONFIG_NAME
    config = ConfigFile(path, read_json(path))
    if config.find(_EARLY) is not None:
        raise CheckpointError(f"{path} has {_EARLY}: an early conversion, of another layout; fetch the model again")
    for file in list_preprocessors(directory):
        stated = read_json(file)
        ConfigFile(file, stated.get("feature_extractor", stated)).require_all(_TRANSFORMERS_FRONTEND)
    config.require_all(_TRANSFORMERS_IMPLEMENTED)
    num_blocks, num_tp_blocks = _numbers_of_layers(config)
    values: dict[str, dict[str, object]] = {
        "audio_encoder_conf": {"num_blocks": num_blocks, "tp_blocks": num_tp_blocks},
        "audio_adaptor_conf": {"downsample_rate": 1, "use_low_frame_rate": True},
    }
    for theirs, (section, key) in _TRANSFORMERS_KEYS.items():
        values[section][key] = config.get(theirs, int)
    return ConfigFile(path, values)


def _transformers_tensors(directory: Path) -> dict[str, Tensor]:
    path = directory / CONFIG_NAME
    prefixes = _transformers_prefixes(*_numbers_of_layers(ConfigFile(path, read_json(path))))
    tensors = {_funasr_name(name, prefixes): tensor for name, tensor in read_checkpoint(directory).items()}
    for found in filter(None, map(_QUERY.fullmatch, list(tensors))):
        split = [f"{found[1]}{part}{found[2]}" for part in ("q", "k", "v")]
        if tensors.keys() >= set(split):
            tensors[f"{found[1]}q_k_v{found[2]}"] = torch.cat([tensors.pop(name) for name in split])
    return tensors


def _numbers_of_layers(config: ConfigFile) -> tuple[int, int]:
    """FunASR's num_blocks and tp_blocks: the numbers of layers before and after `after_norm`."""
    num_layers = config.get("audio_config.num_hidden_layers", int)
    num_behind = config.get("audio_config.num_timestamp_prediction_layers", int)
    return num_layers - num_behind, num_behind


def _transformers_prefixes(num_blocks: int, num_tp_blocks: int) -> dict[str, str]:
    """Transformers' prefixes, without "model.", and FunASR's for each. Longer prefixes come first."""
    layers = ["encoders0.0", *(f"encoders.{i}" for i in range(num_blocks - 1))]
    layers += [f"tp_encoders.{i}" for i in range(num_tp_blocks)]
    return {
        f"audio_tower.layers.{num_blocks - 1}.final_layernorm.": "audio_encoder.after_norm.",
        f"audio_tower.layers.{len(layers) - 1}.final_layernorm.": "audio_encoder.tp_norm.",
        **{f"audio_tower.layers.{i}.": f"audio_encoder.{layer}." for i, layer in enumerate(layers)},
        "multi_modal_projector.linear_": "audio_adaptor.linear",
        "multi_modal_projector.layers.": "audio_adaptor.blocks.",
        "language_model.": "llm.model.",
        "lm_head.": "llm.lm_head.",
    }


def _funasr_name(name: str, prefixes: Mapping[str, str]) -> str:
    theirs = name.removeprefix("model.")
    for prefix, ours in prefixes.items():
        if theirs.startswith(prefix):
            rest = theirs.removeprefix(prefix)
            if ours.startswith("audio_"):
                for part, renamed in _NAMES_IN_A_LAYER.items():
                    rest = rest.replace(part, renamed)
            return ours + rest
    return name


def _transformers_llm(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_NAME
    config = read_json(path)
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        raise CheckpointError(f"{path}: text_config is {text!r}; an object is needed")
    return nested_llm_config(text, path, tied=bool(config.get("tie_word_embeddings", True)))


def _vllm_config(directory: Path) -> ConfigFile:
    for file in list_preprocessors(directory):
        ConfigFile(file, read_json(file)).require_all(FRONTEND)
    path = directory / CONFIG_NAME
    return ConfigFile(path, {**read_json(path), "audio_adaptor_conf": _VLLM_ADAPTOR})


def _vllm_llm(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_NAME
    config = read_json(path)
    return nested_llm_config(config, path, tied=bool(config.get("tie_word_embeddings", True)))


TRANSFORMERS = Layout(
    read_config=_transformers_config, read_llm_config=_transformers_llm, read_tensors=_transformers_tensors
)
VLLM = Layout(read_config=_vllm_config, read_llm_config=_vllm_llm, read_tensors=read_checkpoint)
