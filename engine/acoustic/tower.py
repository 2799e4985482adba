"""The first stage of towers on Whisper features.

A tower is a module of `encoders/`: an audio encoder with its bridge to the LLM. It encodes clips in units of one fixed
length. If its input is bounded, a longer clip is first cut into pieces. All units of a clip except the last are full,
so the embeddings of a clip are contiguous.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...encoders.upload import to_device
from ...encoders.whisper_features import log_mel
from .base import StageOneOptions
from .runner import Inputs, StageOneRunner

COST_SAMPLES = 960  # samples that count as one frame (60 ms) in a batch's cost, whatever the tower's own frame rate


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


class TowerModel(StageOneRunner):
    """Stage 1 of one loaded tower."""

    def __init__(self, tower: Tower, options: StageOneOptions) -> None:
        self._tower = tower
        super().__init__(options, max_clips=tower.few_units, frame_step=1)

    def num_frames(self, num_samples: int) -> int:
        heard = (max(piece, self._tower.min_samples) for piece in self._pieces(num_samples))
        return sum(-(-samples // COST_SAMPLES) for samples in heard)

    def num_audio_tokens(self, num_samples: int) -> int:
        return sum(map(self._tower.num_tokens, self._pieces(num_samples)))

    def _compile(self) -> None:
        self._tower.compile()

    def _inputs(self, waveforms: Sequence[np.ndarray]) -> Inputs:
        tower = self._tower
        pieces = [part for waveform in waveforms for part in self._cut(waveform)]
        sample_lens = torch.tensor([len(piece) for piece in pieces])
        heard_lens = sample_lens.clamp(min=tower.min_samples)
        padded = self._upload(pieces)
        padded = F.pad(padded, (0, int(heard_lens.max()) - padded.shape[1]))
        units, lens = tower.units(log_mel(padded, heard_lens, tower.num_mels), sample_lens)
        return units, to_device(lens, self._options.device)

    def _run_modules(self, units: Tensor, lens: Tensor, /) -> tuple[Tensor, ...]:
        return (self._tower(units, lens).to(self._options.embeds_dtype),)

    def _by_clip(self, encoded: Tensor, audio_lens: Sequence[int]) -> Tensor:
        """Units (U, T, D) -> (B, longest, D)."""
        lens = torch.tensor(audio_lens)
        unit_counts = -(-lens // encoded.shape[1])
        starts = (unit_counts.cumsum(0) - unit_counts) * encoded.shape[1]
        rows = starts[:, None] + torch.arange(int(lens.max()))
        flat = encoded.flatten(0, 1)
        return flat[to_device(rows.clamp(max=len(flat) - 1), flat.device)]

    def _pieces(self, num_samples: int) -> list[int]:
        """Lengths in samples of the pieces that a clip is cut into."""
        size = self._tower.max_samples or num_samples
        return [min(size, num_samples - start) for start in range(0, num_samples, size)]

    def _cut(self, waveform: np.ndarray) -> list[np.ndarray]:
        bounds = np.cumsum(self._pieces(len(waveform)))
        return np.split(waveform, bounds[:-1])
