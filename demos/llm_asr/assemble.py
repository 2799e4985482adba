"""Published parts and what was trained -> a checkpoint of FunASR's LLMASR: python demos/llm_asr/assemble.py
        --whisper DIR --llm DIR --trained trained.safetensors --out CHECKPOINT

The directories are in Hugging Face's layout. model.pt holds encoder and adaptor in float32 and the LLM in bfloat16,
updates merged. `twostage-asr convert CHECKPOINT` reads it.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from recognizer import ALPHA, RANK, read_whisper, tower_config
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

_ADAPTOR = "tower.audio_adaptor."
_ENCODER = "tower.audio_encoder."
_LLM = "llm."


def config(encoder: dict[str, Tensor], llm_dim: int) -> dict[str, Any]:
    """config.yaml as FunASR's recipes have it."""
    sizes = tower_config(encoder, llm_dim)
    return {
        "model": "LLMASR",
        "audio_encoder": "whisper",
        "audio_encoder_conf": {"hub": "ms", "freeze": True},
        "llm": "llm",
        "llm_conf": {"hub": "hf", "freeze": True, "init_param_path": "llm"},
        "audio_adaptor": sizes.adaptor,
        "audio_adaptor_conf": {
            "downsample_rate": sizes.downsample_rate,
            "llm_dim": llm_dim,
            "ffn_dim": sizes.ffn_dim,
            "encoder_dim": sizes.encoder_dim,
            "n_layer": sizes.n_layer,
            "attention_heads": sizes.attention_heads,
        },
        "frontend": "WhisperFrontend",
        "frontend_conf": {"fs": 16000, "do_pad_trim": True, "permute": True},
    }


def merged(weights: dict[str, Tensor], trained: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights, float32, with the updates whose names begin with `prefix`."""
    found = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()}
    for name, inner in trained.items():
        if name.startswith(prefix) and name.endswith(".lora_A"):
            layer = name.removesuffix(".lora_A")
            outer = trained[f"{layer}.lora_B"].float()
            found[f"{layer.removeprefix(prefix)}.weight"] += ALPHA / RANK * (outer @ inner.float())
    return found


def assemble(whisper: Path, llm: Path, trained: Path, out: Path) -> None:
    """Write the checkpoint; OUT/llm holds the LLM's configuration and tokenizer."""
    encoder, updates = read_whisper(whisper), load_file(trained)
    (out / "llm").mkdir(parents=True, exist_ok=True)
    for file in llm.glob("*.json"):
        shutil.copy(file, out / "llm")
    tensors = {f"audio_encoder.{name}": tensor for name, tensor in merged(encoder, updates, _ENCODER).items()}
    for name, tensor in updates.items():
        if name.startswith(_ADAPTOR):
            tensors[f"audio_adaptor.{name.removeprefix(_ADAPTOR)}"] = tensor.float()
    written = merged(load_file(llm / "model.safetensors"), updates, _LLM)
    tensors |= {f"llm.{name}": tensor.to(torch.bfloat16) for name, tensor in written.items()}
    torch.save(tensors, out / "model.pt")
    sizes = config(encoder, AutoConfig.from_pretrained(llm).hidden_size)
    (out / "config.yaml").write_text(yaml.safe_dump(sizes, sort_keys=False), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    assemble(arguments.whisper, arguments.llm, arguments.trained, arguments.out)


if __name__ == "__main__":
    main()
