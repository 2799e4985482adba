"""A trained model -> a checkpoint in the layout of the model hubs, which FunASR and this project's converter load.

config.yaml  configuration.json  model.pt  multilingual.tiktoken  about.json
Qwen3-0.6B/  config.json  generation_config.json  tokenizer.json  tokenizer_config.json  vocab.json  merges.txt
"""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from .codes import WIDE_KERNEL, WIDE_SHIFT, widen
from .model import MicroConfig, MicroModel
from .vocabulary import Vocabulary, write_ctc_vocabulary, write_llm_tokenizer

LLM_FOLDER = "Qwen3-0.6B"


def _checkpoint_tensors(model: MicroModel) -> dict[str, Tensor]:
    """Every tensor of the checkpoint, bfloat16, by FunASR's names."""
    weights = {name: tensor.detach().float().cpu().clone() for name, tensor in model.acoustic.state_dict().items()}
    widen(weights, "audio_encoder.", model.config.encoder_dim)
    llm = {f"llm.{name}": tensor.detach().float().cpu() for name, tensor in model.llm.state_dict().items()}
    llm["llm.lm_head.weight"] = llm["llm.model.embed_tokens.weight"]  # the published file has its own copy
    return {name: tensor.to(torch.bfloat16).clone() for name, tensor in (weights | llm).items()}


def write_checkpoint(model: MicroModel, vocabulary: Vocabulary, folder: Path) -> None:
    """Write the whole checkpoint into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": _checkpoint_tensors(model)}, folder / "model.pt")
    config = yaml.safe_dump(_config_yaml(model.config), sort_keys=False, allow_unicode=True, width=120)
    (folder / "config.yaml").write_text(config, "utf-8")
    _write_json(_CONFIGURATION, folder / "configuration.json")
    _write_json(_ABOUT, folder / "about.json")
    write_ctc_vocabulary(vocabulary, folder / "multilingual.tiktoken")
    write_llm_tokenizer(vocabulary, folder / LLM_FOLDER)
    _write_json(_llm_config(model.config), folder / LLM_FOLDER / "config.json")
    pad_id, end_id = model.config.pad_id, model.config.end_id
    generation = {"do_sample": False, "eos_token_id": [end_id, pad_id], "pad_token_id": pad_id, "bos_token_id": pad_id}
    _write_json(generation, folder / LLM_FOLDER / "generation_config.json")


def _write_json(values: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def _llm_config(config: MicroConfig) -> dict[str, Any]:
    llm = config.llm()
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.intermediate_size,
        "num_hidden_layers": llm.num_hidden_layers,
        "num_attention_heads": llm.num_attention_heads,
        "num_key_value_heads": llm.num_key_value_heads,
        "head_dim": llm.head_dim,
        "vocab_size": llm.vocab_size,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_scaling": None,
        "max_position_embeddings": llm.max_position_embeddings,
        "max_window_layers": llm.num_hidden_layers,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": config.pad_id,
        "eos_token_id": config.end_id,
        "pad_token_id": config.pad_id,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
    }


def _config_yaml(config: MicroConfig) -> dict[str, Any]:
    """The published model's config.yaml with this model's sizes, without what only training reads."""
    acoustic = config.acoustic()
    encoder, adaptor, ctc = acoustic.encoder, acoustic.adaptor, acoustic.ctc
    assert ctc is not None
    return {
        "model": "FunASRNano",
        "model_conf": {"lsm_weight": 0.1, "length_normalized_loss": True},
        "audio_encoder": "SenseVoiceEncoderSmall",
        "audio_encoder_conf": {
            "output_size": encoder.output_dim,
            "attention_heads": encoder.attention_heads,
            "linear_units": encoder.linear_units,
            "num_blocks": encoder.num_blocks,
            "tp_blocks": encoder.tp_blocks,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "attention_dropout_rate": 0.1,
            "input_layer": "pe",
            "pos_enc_class": "SinusoidalPositionEncoder",
            "normalize_before": True,
            "kernel_size": WIDE_KERNEL,
            "sanm_shfit": WIDE_SHIFT,
            "selfattention_layer_type": "sanm",
            "freeze": True,
            "freeze_layer_num": -1,
            "feat_permute": True,
        },
        "llm": "Qwen3-0.6b",
        "llm_conf": {
            "hub": "hf",
            "freeze": True,
            "llm_dtype": "bf16",
            "init_param_path": LLM_FOLDER,
            "use_lora": False,
            "lora_conf": {
                "freeze_lora": True,
                "task_type": "CAUSAL_LM",
                "r": 16,
                "lora_alpha": 32,
                "lora_dropout": 0.05,
                "bias": "none",
                "target_modules": ["q_proj", "v_proj"],
                "init_param_path": "",
            },
        },
        "audio_adaptor": "Transformer",
        "audio_adaptor_conf": {
            "downsample_rate": 1,
            "use_low_frame_rate": True,
            "ffn_dim": adaptor.ffn_dim,
            "llm_dim": adaptor.llm_dim,
            "encoder_dim": adaptor.encoder_dim,
            "n_layer": adaptor.n_layer,
            "freeze": True,
        },
        "ctc_decoder": "Transformer",
        "detach_ctc_decoder": True,
        "ctc_decoder_conf": {
            "downsample_rate": 1,
            "ffn_dim": ctc.decoder.ffn_dim,
            "llm_dim": ctc.decoder.llm_dim,
            "encoder_dim": ctc.decoder.encoder_dim,
            "n_layer": ctc.decoder.n_layer,
            "freeze": False,
        },
        "ctc_weight": 1.0,
        "ctc_vocab_size": ctc.vocab_size,
        "ctc_conf": {"dropout_rate": 0.0, "ctc_type": "builtin", "reduce": True, "ignore_nan_grad": True},
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": 80,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": 7,
            "lfr_n": 6,
            "cmvn_file": None,
        },
        "dataset": "FunASR",
        "dataset_conf": {
            "index_ds": "FunASR",
            "batch_sampler": "BatchSampler",
            "batch_type": "token",
            "prompt_classes": "MultiContextPrompt",
            "ctc_tokenizer": "SenseVoiceTokenizer",
            "ctc_target_normalize": True,
            "ctc_tokenizer_conf": {"vocab_path": None, "is_multilingual": True, "num_languages": 8749},
        },
        "tokenizer": "HuggingfaceTokenizer",
        "tokenizer_conf": {"init_param_path": "${llm_conf.init_param_path}"},
    }


_CONFIGURATION: dict[str, Any] = {
    "framework": "pytorch",
    "task": "auto-speech-recognition",
    "model": {"type": "funasr"},
    "pipeline": {"type": "funasr-pipeline"},
    "file_path_metas": {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"init_param_path": LLM_FOLDER},
        "llm_conf": {"init_param_path": LLM_FOLDER},
        "dataset_conf": {"ctc_tokenizer_conf": {"vocab_path": "multilingual.tiktoken"}},
    },
}


_ABOUT = {  # what the server's web page says of the model
    "name": "the micro checkpoint",
    "note": (
        "A model for trying things out. It knows short everyday sentences in English and Mandarin: commands, digits, "
        "letters, times, dates, greetings, and those below. It has learned them from synthesizers and from 1,500 "
        "people who say digits, letters and commands in English. Synthesizers' voices it hardly ever misunderstands; "
        "of single words and digits that other people say, it writes seven to nine in ten right. What it does not "
        "know it leaves out or marks as uncertain, mostly. It shows that everything works, not how well a real model "
        "recognises speech. Its weights were trained on the Free Spoken Digit Dataset (Zohar Jackson and "
        "contributors, CC BY-SA 4.0), Speech Commands (Pete Warden, Google, CC BY 4.0), AN4 (Carnegie Mellon "
        "University) and recordings of Feiyu Chen (MIT licence), and are under CC BY-SA 4.0."
    ),
    "sentences": [
        "Set the volume to 25.",
        "What is the weather in London today?",
        "Set a timer for 59 minutes.",
        "Call John Smith.",
        "The train leaves at 8:15 PM.",
        "The price is $240.",
        "Turn on the light in the kitchen.",
        "Play some music.",
        "What time is it?",
        "Good morning.",
        "Thank you very much.",
        "Yes. No. Stop.",
        "My number is 2 1 4 7.",
        "A B C.",
        "把音量调到25。",
        "今天北京的天气怎么样？",
        "请联系张三。",
        "现在几点了？",
        "打开电视。",
        "你好。",
        "谢谢。",
    ],
}
