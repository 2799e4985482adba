"""Write safetensors files one tensor at a time, and read the weights of a checkpoint, in safetensors or not.

The library's own writer needs all tensors of a file at once. Since a cast or a LoRA merge makes a new tensor, that
would be a second copy of the model in memory. The format is simple: an unsigned 64-bit little-endian length, a JSON
header of that length, then the tensors' bytes without gaps (https://github.com/huggingface/safetensors#format).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..engine.errors import CheckpointError, enumerate_names
from ..engine.hub.model_files import check_file
from .checkpoint import read_state_dict
from .config_file import read_json
from .weights import Weight

MODEL_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
TORCH_NAME, TORCH_INDEX_NAME = "pytorch_model.bin", "pytorch_model.bin.index.json"  # transformers' before safetensors
SHARD_BYTES = 5_000_000_000  # largest file of an LLM, as transformers writes it
_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8  # bytes; the header is padded with spaces

Advance = Callable[[int], object]  # is called with the number of bytes that were written


def write_safetensors(path: Path, weights: Mapping[str, Weight], advance: Advance) -> None:
    """Write one file. This takes a few megabytes of memory, and a whole tensor where a LoRA update is merged.

    Raises CheckpointError, naming the tensor, if a value does not fit in its dtype.
    """
    # With wider dtypes first, every tensor starts at a multiple of its element size.
    names = sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))
    with path.open("wb") as file:
        file.write(_header({name: weights[name] for name in names}))
        for name in names:
            _write_tensor(file, name, weights[name], advance)


def write_sharded(directory: Path, weights: Mapping[str, Weight], advance: Advance) -> None:
    """Write an LLM's weights: MODEL_NAME, or numbered files and INDEX_NAME if they exceed SHARD_BYTES."""
    from huggingface_hub import split_state_dict_into_shards_factory  # half a second, which only a conversion needs

    split = split_state_dict_into_shards_factory(
        dict(weights),
        get_storage_size=lambda weight: weight.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    for filename, names in split.filename_to_tensors.items():
        write_safetensors(directory / filename, {name: weights[name] for name in names}, advance)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (directory / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def list_model_files(directory: Path, model: str = MODEL_NAME, index: str = INDEX_NAME) -> list[Path]:
    """The files of a model's weights: those that the index names or, without an index, one. Raises CheckpointError."""
    if not (directory / index).is_file():
        return [directory / model]
    weight_map = read_json(directory / index).get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(
            f"{directory / index}: weight_map names {enumerate_names(names)}; files beside it are needed"
        )
    return [directory / name for name in names]


def list_checkpoint_files(directory: Path) -> list[Path]:
    """The weight files of a checkpoint, in safetensors or else of torch.save, and their index.

    Raises CheckpointError if one is missing.
    """
    formats = ((MODEL_NAME, INDEX_NAME), (TORCH_NAME, TORCH_INDEX_NAME))
    present = [names for names in formats if any((directory / name).is_file() for name in names)]
    model, index = (present or formats)[0]
    files = list_model_files(directory, model, index)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{directory} has no {enumerate_names(missing)}; the download may be incomplete")
    return files + [path for path in [directory / index] if path.is_file()]


def read_checkpoint(directory: Path) -> dict[str, Tensor]:
    """Every tensor in the files of `list_checkpoint_files`, mapped into memory and not read.

    Raises CheckpointError if a file is damaged, a name occurs twice, or a tensor is not of a floating point dtype.
    """
    tensors: dict[str, Tensor] = {}
    for path in list_checkpoint_files(directory):
        if path.suffix == ".json":
            continue
        stored = read_state_dict(path) if path.suffix == ".bin" else _read_safetensors(path)
        twice = sorted(tensors.keys() & stored.keys())
        if twice:
            raise CheckpointError(f"{path} is refused: tensors that another file has as well: {enumerate_names(twice)}")
        tensors |= stored
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    check_file(path)
    try:
        stored: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        fault = "is cut short or damaged" if _has_header(path) else "is not a safetensors file"
        raise CheckpointError(f"{path} {fault}: {error}") from error
    strangers = [f"{name} ({tensor.dtype})" for name, tensor in stored.items() if tensor.dtype not in _DTYPE_NAMES]
    if strangers:
        raise CheckpointError(f"{path} is refused: tensors of other dtypes: {enumerate_names(strangers)}")
    return stored


def _has_header(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _header(weights: Mapping[str, Weight]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, weight in weights.items():
        end = start + weight.nbytes
        entries[name] = {"dtype": _DTYPE_NAMES[weight.dtype], "shape": weight.shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(file: BinaryIO, name: str, weight: Weight, advance: Advance) -> None:
    try:
        for piece in weight.pieces():
            advance(file.write(piece.view(torch.uint8).numpy().data))
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error
