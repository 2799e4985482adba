"""What the families' first stages share: loading, the way to the CPU, and the stage of towers on Whisper features.

A tower is a module of `encoders/`. It hears clips, or pieces of clips where it hears a bounded time, in units of one
length; all units of a clip are full but its last, so that a clip's embeddings follow one another.
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

COST_SAMPLES = 960  # that count as one frame, 60 ms, however many a tower makes of them

Module = TypeVar("Module", bound=nn.Module)


class Tower(Protocol):
    """An encoder and its bridge to the LLM."""

    num_mels: int
    min_samples: int  # shorter pieces are filled up with silence
    few_units: int  # that leave a GPU waiting for the CPU, unless they are launched as one graph

    @property
    def max_samples(self) -> int | None:
        """Longer clips are heard piece by piece; None: in one."""

    def num_tokens(self, num_samples: int) -> int:
        """Embeddings of a piece."""

    def compile(self) -> None:
        """Make the layers faster on a GPU."""

    def units(self, features: Tensor, sample_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, num_mels, T), lengths (B,) on the CPU -> units (U, num_mels, t), and (U,) lengths on the CPU."""

    def __call__(self, units: Tensor, lens: Tensor, /) -> Tensor:
        """Units and lengths -> (U, embeddings of a unit, llm_dim)."""


class TowerModel:
    """Stage 1 of one loaded tower."""

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
        """Compile what batches of any size and single clips run, so that no request waits for it."""
        second = np.zeros(SAMPLE_RATE, np.float32)
        with one_thread(active=True):  # as in a run: compiled code belongs to a number of threads
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
        """`with_ctc` changes nothing: a tower has no CTC head."""
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
        """Lengths of the pieces that a clip is heard in."""
        size = self._tower.max_samples or num_samples
        return [min(size, num_samples - start) for start in range(0, num_samples, size)]

    def _cut(self, waveform: np.ndarray) -> list[np.ndarray]:
        bounds = np.cumsum(self._pieces(len(waveform)))
        return np.split(waveform, bounds[:-1])


def _by_clip(encoded: Tensor, audio_lens: Tensor) -> Tensor:
    """Units (U, T, D), lengths of the clips (B,) on the CPU -> (B, longest, D), meaningless beyond a clip's length."""
    unit_counts = -(-audio_lens // encoded.shape[1])
    starts = (unit_counts.cumsum(0) - unit_counts) * encoded.shape[1]
    rows = starts[:, None] + torch.arange(int(audio_lens.max()))
    flat = encoded.flatten(0, 1)
    return flat[to_device(rows.clamp(max=len(flat) - 1), flat.device)]


def load_module(path: Path, make: Callable[[], Module], options: StageOneOptions) -> Module:
    """The module that `make` builds, with the tensors of a safetensors file, ready to run.

    Raises:
        CheckpointError: another file in its place, or tensors that are missing, left over or of another shape.
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
    """The tensor on the CPU; from a CUDA device without waiting, and the event after which it can be read."""
    if not tensor.is_cuda:
        return tensor.cpu(), None
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()
    return copy, done
