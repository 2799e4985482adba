"""Other forms of a checkpoint, which tests need: converted from it, not stored beside it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

LLM_FOLDER = "Qwen3-0.6B"
CTC_PREFIXES = ("ctc_decoder.", "ctc.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How else a checkpoint of the family may be stored or read."""

    full_rate: bool = False  # the LLM reads every adaptor frame
    has_ctc: bool = True  # some published files lack these tensors
    prefix: str = ""  # of every key: "module." from distributed training
    is_wrapped: bool = True  # the tensors are below "state_dict"


def write_variant(source: Path, target: Path, variant: Variant) -> None:
    """A copy of the checkpoint `source`, changed."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("configuration.json", "multilingual.tiktoken"):
        shutil.copyfile(source / name, target / name)
    shutil.copytree(source / LLM_FOLDER, target / LLM_FOLDER, dirs_exist_ok=True)
    config = (source / "config.yaml").read_text("utf-8")
    if variant.full_rate:
        config = config.replace("use_low_frame_rate: true", "use_low_frame_rate: false")
    (target / "config.yaml").write_text(config, "utf-8")
    tensors = torch.load(source / "model.pt", weights_only=True)["state_dict"]
    kept = {
        f"{variant.prefix}{name}": tensor
        for name, tensor in tensors.items()
        if variant.has_ctc or not name.startswith(CTC_PREFIXES)
    }
    torch.save({"state_dict": kept} if variant.is_wrapped else kept, target / "model.pt")
