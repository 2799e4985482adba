"""fsmn-vad from a directory in FunASR's format: config.yaml, model.pt, am.mvn. A probability every 10 ms.

    samples -> log-mel frames (25 ms each) -> stacked with their neighbours -> am.mvn -> network -> 1 - p(silence)

Frames are computed in blocks of BLOCK_FRAMES. Samples that have not arrived yet are zero, and the block is computed
again when they arrive. A block therefore always has the same shape and a frame the same place in it, so the sizes of
the pushed chunks do not change a probability by a single bit. A frame is final once the samples of the neighbours that
are stacked after it have arrived.
"""

import re
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
from ..hub.model_files import read_text

BLOCK_FRAMES = 50
# With its dynamic schedules, FunASR takes a frame for speech if p(speech) is at least p(silence) + 0.5.
THRESHOLD = 0.75
_FRONTEND = {"fs": SAMPLE_RATE, "window": "hamming", "n_mels": NUM_MELS, "frame_length": 25, "frame_shift": 10}


class FsmnVAD:
    """A loaded checkpoint; its streams share it."""

    frame_s = HOP_SAMPLES / SAMPLE_RATE

    def __init__(self, encoder: FsmnVADEncoder, cmvn: Tensor, silence_ids: list[int]) -> None:
        """`cmvn` (2, input_dim): row 0 is added to the features, then they are multiplied by row 1."""
        self.encoder = encoder
        self.cmvn = cmvn
        self.silence_ids = silence_ids

    @classmethod
    def from_directory(cls, directory: Path) -> Self:
        """Load a checkpoint. Raises CheckpointError if it is no fsmn-vad, or has an unsupported configuration."""
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

    frame_s = FsmnVAD.frame_s
    threshold = THRESHOLD

    def __init__(self, model: FsmnVAD) -> None:
        self._model = model
        self._memory = model.encoder.new_memory()
        self._neighbours = model.encoder.config.input_dim // NUM_MELS // 2  # frames stacked on each side
        self._samples: Waveform = np.zeros(0, np.float32)  # from the first frame that the block needs
        self._is_first = True  # whether this is the first block, which has no frames before it
        self._known = 0  # frames of the block that have been returned

    def push(self, samples: Waveform) -> npt.NDArray[np.float32]:
        self._samples = np.concatenate([self._samples, samples])
        found = [np.zeros(0, np.float32)]
        while (known := self._num_known()) > self._known:
            probabilities, memory = self._run_block()
            found.append(probabilities[self._known : known])
            self._known = known
            if known == BLOCK_FRAMES:
                self._memory, self._known = memory, 0
                kept = BLOCK_FRAMES - (self._neighbours if self._is_first else 0)
                self._samples = self._samples[kept * HOP_SAMPLES :]
                self._is_first = False
        return np.concatenate(found)

    def _num_known(self) -> int:
        """The number of the block's frames whose samples, and those of their neighbours, have arrived."""
        frames = 1 + (len(self._samples) - WINDOW_SAMPLES) // HOP_SAMPLES
        before = 0 if self._is_first else self._neighbours
        return min(max(frames - before - self._neighbours, 0), BLOCK_FRAMES)

    @torch.inference_mode()
    def _run_block(self) -> tuple[npt.NDArray[np.float32], list[Tensor]]:
        """The block's (BLOCK_FRAMES,) probabilities, final for its known frames, and the memory after the block."""
        num_frames = BLOCK_FRAMES + (1 if self._is_first else 2) * self._neighbours
        length = (num_frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES
        samples = np.zeros((1, length), np.float32)
        heard = self._samples[:length]
        samples[0, : len(heard)] = heard
        fbank = log_mel_fbank(torch.from_numpy(samples), torch.tensor([length]))[0][0]
        if self._is_first:
            fbank = torch.cat([fbank[:1].expand(self._neighbours, -1), fbank])
        features = fbank.unfold(0, 2 * self._neighbours + 1, 1).transpose(1, 2).flatten(1)
        features = (features + self._model.cmvn[0]) * self._model.cmvn[1]
        probabilities, memory = self._model.encoder(features, self._memory)
        speech = 1.0 - probabilities[:, self._model.silence_ids].sum(-1)
        return speech.numpy(), memory


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
