"""A checkpoint -> the model in training, so that a training goes on from it, also with a larger vocabulary."""

from pathlib import Path

import torch
from torch import Tensor

from .codes import CODES, FRAMES_BACK
from .export import LLM_FOLDER
from .model import MicroModel
from .vocabulary import SPECIAL_TOKENS, Vocabulary, read_vocabulary

_EMBEDDING = "llm.model.embed_tokens.weight"
_HEAD_WEIGHT, _HEAD_BIAS = "ctc.ctc_lo.weight", "ctc.ctc_lo.bias"


def start_from(model: MicroModel, vocabulary: Vocabulary, folder: Path) -> None:
    """Give the model the weights of the checkpoint in `folder`; heads of training alone keep their own.

    A token that the checkpoint's vocabulary does not have starts as the mean of the tokens that make it up there.
    """
    weights = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)["state_dict"]
    weights = {name: tensor.float() for name, tensor in weights.items()}
    old = read_vocabulary(folder / LLM_FOLDER / "tokenizer.json")
    sources = _sources(old.pieces, vocabulary.pieces)
    blank = old.num_tokens
    for name in (_HEAD_WEIGHT, _HEAD_BIAS):
        weights[name] = torch.cat([_means(weights[name], sources), weights[name][blank:]])
    weights[_EMBEDDING] = _embedding(weights[_EMBEDDING], sources, old, vocabulary)
    _narrow(weights, "audio_encoder.", model)
    acoustic = {name: weights[name] for name in model.acoustic.state_dict()}
    model.acoustic.load_state_dict(acoustic)
    llm = {name.removeprefix("llm."): tensor for name, tensor in weights.items() if name.startswith("llm.")}
    llm["lm_head.weight"] = llm["model.embed_tokens.weight"]
    model.llm.load_state_dict(llm)


def _sources(old: list[bytes], new: list[bytes]) -> list[list[int]]:
    """For each new piece the old tokens that make it up, the longest first."""
    ids = {piece: token for token, piece in enumerate(old)}
    sources = []
    for piece in new:
        found, start = [], 0
        while start < len(piece):
            end = next(end for end in range(len(piece), start, -1) if piece[start:end] in ids)
            found.append(ids[piece[start:end]])
            start = end
        sources.append(found)
    return sources


def _means(table: Tensor, sources: list[list[int]]) -> Tensor:
    return torch.stack([table[ids].mean(0) for ids in sources])


def _embedding(table: Tensor, sources: list[list[int]], old: Vocabulary, new: Vocabulary) -> Tensor:
    specials = [table[old.special_id(token)] for token in SPECIAL_TOKENS]
    rows = torch.cat([_means(table, sources), torch.stack(specials)])
    return torch.cat([rows, torch.zeros(new.llm_size - len(rows), table.shape[1])])


def _narrow(weights: dict[str, Tensor], prefix: str, model: MicroModel) -> None:
    """Undo codes.widen: the kernels of training, and no codes in them, which a table adds there."""
    own = model.acoustic.state_dict()
    for name in [name for name in weights if name.startswith(prefix) and name.endswith("fsmn_block.weight")]:
        reach = own[name].shape[2] // 2
        weights[name] = weights[name][:, :, FRAMES_BACK - reach : FRAMES_BACK + reach + 1].contiguous()
    first = f"{prefix}encoders0.0.self_attn."
    weights[f"{first}fsmn_block.weight"][: len(CODES)] = 0.0
    width = model.config.encoder_dim
    weights[f"{first}linear_q_k_v.bias"][2 * width : 2 * width + len(CODES)] = 0.0
