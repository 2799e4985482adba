"""Shared parts of stage 1: loading a module, copying to the CPU, and TowerModel for encoders on Whisper features.

A tower is a module of `encoders/`: an audio encoder with its bridge to the LLM. It encodes clips in units of one fixed
length. If its input is bounded, a longer clip is first cut into pieces. All units of a clip except the last are full,
so the embeddings of a clip are contiguous.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...encoders.transformer import attention_for_any_shape
from ...encoders.upload import to_device
from ...encoders.whisper_features import SAMPLE_RATE, log_mel
from ..errors import CheckpointError
from ..families.base import EncodedBatch, StageOneOptions
from ..hub.model_files import check_file
from .cuda_graphs import Encode, SmallBatchGraphs
from .staging import uploader
from .threads import one_thread

COST_SAMPLES = 960  # samples that count as one frame (60 ms) in a batch's cost, whatever the tower's own frame rate

Module = TypeVar("Module", bound=nn.Module)


class Tower(Protocol):
    """An encoder and its bridge to the LLM."""

    num_mels: int
    min_samples: int  # shorter pieces are padded with silence
    few_units: int  # largest batch that runs as a CUDA graph: launching its kernels takes longer than running them

    @property
    def max_samples(self) -> int | None:
        """Longer clips are encoded piece by piece; None: clips of any length are encoded whole."""

    def num_tokens(self, num_samples: int) -> int:
        """The number of embeddings for a piece of `num_samples` samples."""

    def compile(self) -> None:
        """Compile the layers for a GPU."""

    def units(self, features: Tensor, sample_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Cut features into units.

        Features (B, num_mels, T) and lengths in samples (B,) on the CPU -> units (U, num_mels, t) and their lengths
        (U,) on the CPU.
        """

    def __call__(self, units: Tensor, lens: Tensor, /) -> Tensor:
        """Encode units (U, num_mels, t) with lengths (U,) -> (U, embeddings per unit, llm_dim)."""


class TowerModel:
    """Stage 1 with one loaded tower; see AcousticModel in families/base.py."""

    def __init__(self, tower: Tower, options: StageOneOptions) -> None:
        self._tower = tower
        self._options = options
        self._run: Encode = self._run_tower
        self._upload = uploader(options.device)
        if options.device.type == "cuda":
            tower.compile()
            self._run = SmallBatchGraphs(self._run_tower, max_clips=tower.few_units, frame_step=1)
            self._warm_up()

    def _warm_up(self) -> None:
        """Run one large and one small batch, so that no request waits for compilation or graph capture."""
        second = np.zeros(SAMPLE_RATE, np.float32)
        with one_thread(active=True):  # as in a run: compiled code is specific to the number of threads
            for waveforms in ([second] * (self._tower.few_units + 1), [second]):
                self.encode(waveforms, with_ctc=False).utterances()

    def num_frames(self, num_samples: int) -> int:
        heard = (max(piece, self._tower.min_samples) for piece in self._pieces(num_samples))
        return sum(-(-samples // COST_SAMPLES) for samples in heard)

    def num_audio_tokens(self, num_samples: int) -> int:
        return sum(map(self._tower.num_tokens, self._pieces(num_samples)))

    @torch.inference_mode()
    @attention_for_any_shape()
    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        """Encode a batch. `with_ctc` is ignored, because a tower has no CTC head."""
        tower, device = self._tower, self._options.device
        pieces = [part for waveform in waveforms for part in self._cut(waveform)]
        sample_lens = torch.tensor([len(piece) for piece in pieces])
        heard_lens = sample_lens.clamp(min=tower.min_samples)
        padded = self._upload(pieces)
        padded = F.pad(padded, (0, int(heard_lens.max()) - padded.shape[1]))
        units, lens = tower.units(log_mel(padded, heard_lens, tower.num_mels), sample_lens)
        (encoded,) = self._run(units, to_device(lens, device))
        audio_lens = [self.num_audio_tokens(len(waveform)) for waveform in waveforms]
        embeds, done = to_cpu(_by_clip(encoded, torch.tensor(audio_lens)))
        return EncodedBatch(
            audio_embeds=embeds, audio_lens=audio_lens, ctc_hidden=None, encoder_lens=audio_lens, done=done
        )

    def _run_tower(self, units: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        return (self._tower(units, lens).to(self._options.embeds_dtype),)

    def _pieces(self, num_samples: int) -> list[int]:
        """Lengths in samples of the pieces that a clip is cut into."""
        size = self._tower.max_samples or num_samples
        return [min(size, num_samples - start) for start in range(0, num_samples, size)]

    def _cut(self, waveform: np.ndarray) -> list[np.ndarray]:
        bounds = np.cumsum(self._pieces(len(waveform)))
        return np.split(waveform, bounds[:-1])


def _by_clip(encoded: Tensor, audio_lens: Tensor) -> Tensor:
    """Units (U, T, D), lengths of the clips (B,) on the CPU -> (B, longest, D), undefined beyond a clip's length."""
    unit_counts = -(-audio_lens // encoded.shape[1])
    starts = (unit_counts.cumsum(0) - unit_counts) * encoded.shape[1]
    rows = starts[:, None] + torch.arange(int(audio_lens.max()))
    flat = encoded.flatten(0, 1)
    return flat[to_device(rows.clamp(max=len(flat) - 1), flat.device)]


def load_module(path: Path, make: Callable[[], Module], options: StageOneOptions) -> Module:
    """Build a module with `make` and load its tensors from a safetensors file, ready to run.

    Raises:
        CheckpointError: the file is missing or unreadable, or its tensors are missing, surplus or of another shape.
    """
    check_file(path)
    with torch.device("meta"):
        module = make()
    try:
        module.load_state_dict(load_file(path), strict=True, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not hold the tensors that engine.json promises: {error}") from error
    return module.eval().to(options.device, options.dtype)


def to_cpu(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Copy a tensor to the CPU.

    A copy from a CUDA device is queued and not awaited; it may be read after the returned event. Otherwise the event is
    None.
    """
    if not tensor.is_cuda:
        return tensor.cpu(), None
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()
    return copy, done
