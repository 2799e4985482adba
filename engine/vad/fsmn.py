"""fsmn-vad: am.mvn with FunASR's model.pt and config.yaml, or with the ONNX export. A probability every 10 ms.

    samples -> log-mel frames (25 ms each) -> stacked with their neighbours -> am.mvn -> network -> 1 - p(silence)

Frames are computed in blocks of BLOCK_FRAMES, each once, as soon as all samples that it needs have arrived. A block
always has the same shape and a frame the same place in it, so the sizes of the pushed chunks do not change a
probability by a single bit. What the next block needs of this one is kept: the last log-mel frames, and the memory of
the network.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...convert.checkpoint import read_state_dict
from ...convert.config_file import ConfigFile
from ...encoders.fbank import HOP_SAMPLES, NUM_MELS, WINDOW_SAMPLES, log_mel_fbank
from ...encoders.fsmn_vad import FsmnVADConfig, FsmnVADEncoder
from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import CheckpointError
from ..hub.model_files import read_bytes, read_text
from .onnx_file import load_onnxruntime

BLOCK_FRAMES = 8  # 80 ms, by which probabilities may come late; blocks of 40 ms take half as long again
# With its dynamic schedules, FunASR takes a frame for speech if p(speech) is at least p(silence) + 0.5.
THRESHOLD = 0.75
_FRONTEND = {"fs": SAMPLE_RATE, "window": "hamming", "n_mels": NUM_MELS, "frame_length": 25, "frame_shift": 10}


class FsmnVAD:
    """A loaded checkpoint; its streams share it."""

    def __init__(self, network: "FsmnVADEncoder | OnnxNetwork", cmvn: Tensor, silence_ids: list[int]) -> None:
        """`cmvn` (2, input_dim): row 0 is added to the features, then they are multiplied by row 1."""
        self.network = network
        self.cmvn = cmvn
        self.silence_ids = silence_ids

    @classmethod
    def from_directory(cls, directory: Path) -> Self:
        """Load a checkpoint: model.pt, or the ONNX file of a directory without it.

        Raises CheckpointError if it is no fsmn-vad, or has an unsupported configuration.
        """
        if not (directory / "model.pt").is_file() and (path := _onnx_file(directory)) is not None:
            network = OnnxNetwork(path)
            return cls(network, _read_cmvn(directory / "am.mvn", network.input_dim), [0])
        config = ConfigFile.read(directory / "config.yaml")
        config.require("model", "FsmnVADStreaming", None)
        config.require("encoder", "FSMN", None)
        for name, value in (*_FRONTEND.items(), ("lfr_n", 1)):
            config.require(f"frontend_conf.{name}", value, None)
        config.require("encoder_conf.rorder", 0, None)
        lfr_m = config.get("frontend_conf.lfr_m", int)
        sizes = {name: config.get(f"encoder_conf.{name}", int) for name in FsmnVADConfig.__slots__}
        if lfr_m % 2 == 0 or sizes["input_dim"] != lfr_m * NUM_MELS:
            raise CheckpointError(
                f"{config.path}: input_dim is {sizes['input_dim']} and lfr_m {lfr_m}; lfr_m must be odd and input_dim "
                f"{NUM_MELS} times as much"
            )
        try:
            encoder = FsmnVADEncoder(FsmnVADConfig(**sizes))
        except ValueError as error:
            raise CheckpointError(f"{config.path}: encoder_conf: {error}") from error
        silence_ids = config.get("model_conf.sil_pdf_ids", list, [0])
        if not silence_ids or not all(type(i) is int and 0 <= i < sizes["output_dim"] for i in silence_ids):
            raise CheckpointError(f"{config.path}: model_conf.sil_pdf_ids is {silence_ids}; output classes are needed")
        _load(encoder, directory / "model.pt")
        return cls(encoder.eval(), _read_cmvn(directory / "am.mvn", sizes["input_dim"]), silence_ids)

    def new_stream(self) -> "FsmnStream":
        return FsmnStream(self)


class FsmnStream:
    """Computes the speech probabilities of one stream of samples."""

    frame_s = HOP_SAMPLES / SAMPLE_RATE
    threshold = THRESHOLD

    def __init__(self, model: FsmnVAD) -> None:
        self._model = model
        self._memory = model.network.new_memory()
        self._neighbours = model.cmvn.shape[1] // NUM_MELS // 2  # frames stacked on each side
        self._samples: Waveform = np.zeros(0, np.float32)  # from the first frame of the next block
        self._fbank: Tensor | None = None  # the last log-mel frames before that; None at the start of the stream

    @torch.inference_mode()
    def push(self, samples: Waveform) -> npt.NDArray[np.float32]:
        self._samples = np.concatenate([self._samples, samples])
        found = [np.zeros(0, np.float32)]
        start = 0
        while (end := start + self._block_samples()) <= len(self._samples):
            found.append(self._block(self._samples[start:end]))
            start = end - WINDOW_SAMPLES + HOP_SAMPLES
        self._samples = self._samples[start:]
        return np.concatenate(found)

    def _block_samples(self) -> int:
        """Samples whose log-mel frames complete a block. The first block needs its later neighbours as well."""
        frames = BLOCK_FRAMES + (self._neighbours if self._fbank is None else 0)
        return (frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES

    def _block(self, samples: Waveform) -> npt.NDArray[np.float32]:
        """The (BLOCK_FRAMES,) probabilities of the next block."""
        new = log_mel_fbank(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0]
        before = new[:1].expand(self._neighbours, -1) if self._fbank is None else self._fbank
        fbank = torch.cat([before, new])
        self._fbank = fbank[BLOCK_FRAMES:]
        features = fbank.unfold(0, 2 * self._neighbours + 1, 1).transpose(1, 2).flatten(1)
        features = (features + self._model.cmvn[0]) * self._model.cmvn[1]
        probabilities, self._memory = self._model.network(features, self._memory)
        speech: npt.NDArray[np.float32] = (1.0 - probabilities[:, self._model.silence_ids].sum(-1)).numpy()
        return speech


class OnnxNetwork:
    """The streaming ONNX export of the network: `speech` and `in_cache*` -> `logits`, which are probabilities.

    It takes the place of FsmnVADEncoder.
    """

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError if the file is no ONNX model with these inputs."""
        onnxruntime = load_onnxruntime()
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the network is too small for more
        try:
            self._session = onnxruntime.InferenceSession(read_bytes(path), options, providers=["CPUExecutionProvider"])
        except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        speech, *caches = self._session.get_inputs()
        shapes = [cache.shape for cache in caches]
        sizes = [speech.shape[-1], *itertools.chain(*shapes)]
        if not caches or not all(isinstance(size, int) for size in sizes):
            raise CheckpointError(
                f"{path} takes {[each.name for each in self._session.get_inputs()]}; the streaming export is needed, "
                "which takes speech and in_cache0, in_cache1, ..."
            )
        self.input_dim = int(speech.shape[-1])
        self._names = [speech.name, *(cache.name for cache in caches)]
        self._shapes = shapes

    def new_memory(self) -> list[Tensor]:
        """The memory at the start of a stream: zeros for each layer."""
        return [torch.zeros(shape) for shape in self._shapes]

    def __call__(self, features: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(T, input_dim) -> (T, output_dim), whose rows sum to 1, and the memory for the next frames."""
        values = [features[None].numpy(), *(each.numpy() for each in memory)]
        found, *following = map(torch.from_numpy, self._session.run(None, dict(zip(self._names, values, strict=True))))
        return found[0], following


def _onnx_file(directory: Path) -> Path | None:
    """model.onnx, the name in FunASR's repositories, or the only ONNX file whose name says that it is for streams."""
    named = [directory / "model.onnx"] if (directory / "model.onnx").is_file() else [*directory.glob("*online.onnx")]
    return named[0] if len(named) == 1 else None


def _load(encoder: FsmnVADEncoder, path: Path) -> None:
    weights = {name.removeprefix("encoder."): tensor.float() for name, tensor in read_state_dict(path).items()}
    try:
        encoder.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold the tensors that config.yaml promises: {error}") from error


def _read_cmvn(path: Path, size: int) -> Tensor:
    """Read the shift and the scale of Kaldi's <AddShift> and <Rescale> layers in text form: (2, size)."""
    text = read_text(path)
    rows = [
        re.search(rf"<{layer}>[^\[<]*<LearnRateCoef>[^\[<]*\[([^\]]*)\]", text) for layer in ("AddShift", "Rescale")
    ]
    try:
        values = [[float(value) for value in row[1].split()] for row in rows if row is not None]
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if [len(row) for row in values] != [size, size]:
        raise CheckpointError(f"{path} must hold an <AddShift> and a <Rescale> of {size} numbers each")
    return torch.tensor(values)
