"""A Llama in a GGUF file -> a directory in Hugging Face's layout, with float weights.

    python demos/llm_asr/gguf_llm.py SmolLM2-135M-Instruct.Q4_1.gguf OUT

Reads what SmolLM2's files hold: tensors of the types F32, F16, Q4_1 and Q8_0, and a byte-level BPE tokenizer. Imports
neither the gguf package nor any model code. The format is described in ggml's docs/gguf.md.
"""

import argparse
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

Floats = npt.NDArray[np.float32]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CONTROL = 3  # token type
_F32, _F16, _Q4_1, _Q8_0 = 0, 1, 3, 8
_BLOCK = 32  # values that share a scale
_BYTES = {_F32: 4 * _BLOCK, _F16: 2 * _BLOCK, _Q4_1: 20, _Q8_0: 34}  # of _BLOCK values
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


@dataclass(frozen=True, slots=True)
class GGUF:
    """The facts of a file, and its tensors as float32 by GGUF's names."""

    facts: dict[str, Any]
    tensors: dict[str, Floats]


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.place = 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self.place)
        self.place += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        size = self.scalar("Q")
        self.place += size
        return str(self._data[self.place - size : self.place], "utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.scalar("I"), self.scalar("Q")
            return [self.value(inner) for _ in range(count)]
        return self.scalar(_SCALARS[kind])


def read_gguf(path: Path) -> GGUF:
    """Raises ValueError if it is no GGUF file, or holds tensors of another type."""
    data = memoryview(np.memmap(path, np.uint8, "r"))
    if bytes(data[:4]) != b"GGUF":
        raise ValueError(f"{path} is no GGUF file")
    reader = _Reader(data[4:])
    reader.scalar("I")  # version
    num_tensors, num_facts = reader.scalar("Q"), reader.scalar("Q")
    facts = {reader.text(): reader.value(reader.scalar("I")) for _ in range(num_facts)}
    described = []
    for _ in range(num_tensors):
        name = reader.text()
        shape = [reader.scalar("Q") for _ in range(reader.scalar("I"))][::-1]
        described.append((name, shape, reader.scalar("I"), reader.scalar("Q")))
    alignment = facts.get("general.alignment", 32)
    start = -(-(4 + reader.place) // alignment) * alignment
    return GGUF(facts, {name: _floats(data[start + at :], shape, kind, name) for name, shape, kind, at in described})


def _floats(data: memoryview, shape: list[int], kind: int, name: str) -> Floats:
    if kind not in _BYTES:
        raise ValueError(f"{name} is of the type {kind}; {', '.join(map(str, _BYTES))} can be read")
    count = int(np.prod(shape))
    raw = np.frombuffer(data[: -(-count * _BYTES[kind] // _BLOCK)], np.uint8)
    return _unpack(raw, kind).reshape(shape).astype(np.float32)


def _unpack(raw: npt.NDArray[np.uint8], kind: int) -> npt.NDArray[Any]:
    if kind in (_F32, _F16):
        return raw.view(np.float32 if kind == _F32 else np.float16)
    blocks = raw.reshape(-1, _BYTES[kind])
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    if kind == _Q8_0:
        return scale * blocks[:, 2:].view(np.int8)
    least = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    halves = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], 1)
    return scale * halves + least


def state_dict(gguf: GGUF) -> dict[str, Tensor]:
    """The tensors under Hugging Face's names, which keep the halves of a rotation apart; GGUF interleaves them."""
    heads = {"attn_q": gguf.facts["llama.attention.head_count"], "attn_k": gguf.facts["llama.attention.head_count_kv"]}
    found = {}
    for name, values in gguf.tensors.items():
        if name in _OUTER:
            found[_OUTER[name]] = torch.from_numpy(values)
            continue
        _, layer, part, suffix = name.split(".")
        if part in heads:
            rows, columns = values.shape
            values = values.reshape(heads[part], rows // heads[part] // 2, 2, columns).swapaxes(1, 2).reshape(rows, -1)
        found[f"model.layers.{layer}.{_NAMES[part]}.{suffix}"] = torch.from_numpy(np.ascontiguousarray(values))
    return found


def config(facts: dict[str, Any]) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": facts["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "dtype": "bfloat16",
    }


def tokenizer(facts: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE that takes each digit alone (GGUF calls this "smollm")."""
    if (kind := facts.get("tokenizer.ggml.pre")) != "smollm":
        raise ValueError(f"the tokenizer splits texts as {kind!r}; 'smollm' can be read")
    pieces = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    found = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, merges))
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    found.decoder = decoders.ByteLevel()
    types = facts["tokenizer.ggml.token_type"]
    special = [piece for piece, kind in zip(pieces, types, strict=True) if kind == _CONTROL]
    found.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    return found


def convert(path: Path, out: Path) -> None:
    """Write config.json, generation_config.json, the tokenizer and model.safetensors in bfloat16."""
    gguf = read_gguf(path)
    out.mkdir(parents=True, exist_ok=True)
    described, pieces = config(gguf.facts), gguf.facts["tokenizer.ggml.tokens"]
    ends = {key: described[key] for key in ("bos_token_id", "eos_token_id")}
    end = pieces[described["eos_token_id"]]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": end}
    written = {"config.json": described, "generation_config.json": ends, "tokenizer_config.json": settings}
    for name, content in written.items():
        (out / name).write_text(json.dumps(content, indent=1), "utf-8")
    tokenizer(gguf.facts).save(str(out / "tokenizer.json"))
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in state_dict(gguf).items()}
    save_file(weights, out / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    convert(arguments.gguf, arguments.out)


if __name__ == "__main__":
    main()
