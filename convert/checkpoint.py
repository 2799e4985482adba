"""A checkpoint file -> its tensors by name; nothing that the file contains is executed.

The file is mapped into memory and not read: the system loads a tensor's bytes when they are used, and may drop them.
"""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..engine.errors import CheckpointError, enumerate_names
from ..engine.hub.model_files import check_file

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training programs save the weights
DDP_PREFIX = "module."  # what torch's DistributedDataParallel puts before every name
COUNTER_SUFFIX = ".num_batches_tracked"  # of BatchNorm: how long it was trained, which only further training reads
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ZIP = b"PK\x03\x04"  # the first bytes of a file of torch.save

# Damaged bytes are a program that unpickling runs on the wrong values, so pickle documents no closed list of errors.
# These are the built-in families that such a program, tensors of impossible sizes and a broken file raise, and three
# classes of the modules that stand outside them.
_UNREADABLE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in `path`, at the top level or under one of WRAPPERS. A DDP_PREFIX of all names is removed.

    The counters of BatchNorm are left out; a module loads strictly without them.

    Raises CheckpointError if the file is no checkpoint, contains code, or holds anything but dense floating point
    tensors among its weights.
    """
    weights = {name: value for name, value in _unwrap(_load(path)).items() if not name.endswith(COUNTER_SUFFIX)}
    if not weights:
        raise CheckpointError(f"{path} holds no weights")
    strangers = [f"{name} ({_describe(value)})" for name, value in weights.items() if not _is_weight(value)]
    if strangers:
        allowed = "dense tensors of float32, bfloat16 or float16"
        raise CheckpointError(f"{path} is refused: among its weights are {enumerate_names(strangers)}; {allowed} only")
    prefix = DDP_PREFIX if all(name.startswith(DDP_PREFIX) for name in weights) else ""
    return {name.removeprefix(prefix): value for name, value in weights.items() if isinstance(value, Tensor)}


def _load(path: Path) -> object:
    check_file(path)
    try:
        is_zip = zipfile.is_zipfile(path)  # a zip file's directory is at its end
        if is_zip:
            _refuse_compression(path)
        elif _starts_with(path, _ZIP):
            raise CheckpointError(f"{path} is cut short: its end is missing; fetch it again")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _UNREADABLE as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise CheckpointError(
                f"{path} is refused: unpickling it would run {found[1]}, and a checkpoint may hold tensors only"
            ) from error
        raise CheckpointError(f"{path} is not a checkpoint of tensors only, or is damaged") from error


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _refuse_compression(path: Path) -> None:
    """Raises CheckpointError for compressed entries: mapped, their compressed bytes would be taken for weights."""
    with zipfile.ZipFile(path) as archive:
        compressed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
    if compressed:
        raise CheckpointError(f"{path} has compressed entries ({enumerate_names(compressed)}); save it with torch.save")


def _unwrap(loaded: object) -> dict[str, object]:
    """The innermost mapping under WRAPPERS."""
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"the checkpoint holds a {type(loaded).__name__}; a dict of named tensors is needed")
    for key in WRAPPERS:
        if isinstance(loaded.get(key), Mapping):
            return _unwrap(loaded[key])
    return {str(name): value for name, value in loaded.items()}


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.dtype in WEIGHT_DTYPES


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"tensor of {str(value.dtype).removeprefix('torch.')}, {str(value.layout).removeprefix('torch.')}"
