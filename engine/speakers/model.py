"""SpeakerModel: samples -> speaker embeddings, in batches on the model's device."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...encoders.fbank import speaker_fbank
from ...encoders.upload import from_device, to_device
from ..audio.waveform import SAMPLE_RATE, Waveform

MIN_SAMPLES = 4000  # 250 ms; a shorter waveform is repeated up to this length
Embeddings = npt.NDArray[np.float32]  # (N, D), each row of length 1


Bounds = tuple[int, int]  # first and last sample of a window


class SpeakerModel(Protocol):
    """Gives the same voice similar directions."""

    def embed(self, waveforms: Sequence[Waveform]) -> Embeddings:
        """(N_i,) float32 at 16 kHz each -> (len(waveforms), D) float32, each row of length 1."""


@dataclass(frozen=True, slots=True, eq=False)
class TorchSpeakerModel:
    """A network of encoders/ on a device. The result for a waveform does not depend on the others of the call.

    On a GPU it computes on a stream of its own, so that reading its results does not wait for stage 1.
    """

    network: nn.Module  # (B, T, 80) -> (B, D)
    device: torch.device
    size: int  # D
    batch_s: float = 384.0  # of samples that are computed at once; the activations take memory beside the LLM
    stream: torch.cuda.Stream | None = None

    def embed(self, waveforms: Sequence[Waveform]) -> Embeddings:
        """See SpeakerModel. Waveforms of equal length are embedded together, so that none needs padding."""
        by_length: dict[int, list[int]] = {}
        repeated = [_long_enough(waveform) for waveform in waveforms]
        for index, waveform in enumerate(repeated):
            by_length.setdefault(len(waveform), []).append(index)
        embeddings = np.zeros((len(waveforms), self.size), np.float32)
        with contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            for num_samples, indices in by_length.items():
                size = max(round(self.batch_s * SAMPLE_RATE) // num_samples, 1)
                for start in range(0, len(indices), size):
                    part = indices[start : start + size]
                    rows = self._embed(np.stack([repeated[index] for index in part]))
                    embeddings[part] = from_device(rows)[0].numpy()
        return embeddings

    @torch.inference_mode()
    def _embed(self, samples: npt.NDArray[np.float32]) -> Tensor:
        fbank = speaker_fbank(to_device(torch.from_numpy(samples), self.device))
        return nn.functional.normalize(self.network(fbank), dim=-1)


def embed_windows(model: SpeakerModel, parts: Sequence[tuple[Waveform, Sequence[Bounds]]]) -> list[Embeddings]:
    """The embeddings of the windows of each waveform, all in one call of the model."""
    rows = model.embed([waveform[first:last] for waveform, windows in parts for first, last in windows])
    ends = itertools.accumulate(len(windows) for _, windows in parts)
    return [rows[end - len(windows) : end] for end, (_, windows) in zip(ends, parts, strict=True)]


def _long_enough(waveform: Waveform) -> Waveform:
    return waveform if len(waveform) >= MIN_SAMPLES else np.resize(waveform, MIN_SAMPLES)
