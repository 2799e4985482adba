"""What the families' first stages share: loading, the way to the CPU, and the stage of towers on Whisper features.

A tower is a module of `encoders/`. It takes the features of clips, or of pieces of clips where it hears a bounded time,
and gives their embeddings one after the other, without padding.
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
from torch.nn.utils.rnn import pad_sequence

from ...encoders.transformer import attention_for_any_shape
from ...encoders.whisper_features import SAMPLE_RATE, log_mel
from ..errors import CheckpointError
from ..staging import uploader
from .base import EncodedBatch, StageOneOptions

Module = TypeVar("Module", bound=nn.Module)


class Tower(Protocol):
    """An encoder and its bridge to the LLM."""

    num_mels: int
    min_samples: int  # shorter pieces are filled up with silence

    @property
    def max_samples(self) -> int | None:
        """Longer clips are heard piece by piece; None: in one."""

    def num_frames(self, num_samples: int) -> int:
        """What encoding a piece costs."""

    def num_tokens(self, num_samples: int) -> int:
        """Embeddings of a piece."""

    def __call__(self, features: Tensor, sample_lens: Tensor, /) -> Tensor:
        """Features (B, num_mels, T), lengths (B,) on the CPU -> (sum of num_tokens, llm_dim)."""


class TowerModel:
    """Stage 1 of one loaded tower."""

    def __init__(self, tower: Tower, options: StageOneOptions) -> None:
        self._tower = tower
        self._options = options
        self._upload = uploader(options.device)
        if options.device.type == "cuda":  # whose libraries load what they need with the first call
            self.encode([np.zeros(SAMPLE_RATE, np.float32)], with_ctc=False).utterances()

    def num_frames(self, num_samples: int) -> int:
        return sum(map(self._tower.num_frames, self._pieces(num_samples)))

    def num_audio_tokens(self, num_samples: int) -> int:
        return sum(map(self._tower.num_tokens, self._pieces(num_samples)))

    @torch.inference_mode()
    @attention_for_any_shape()
    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        """`with_ctc` changes nothing: a tower has no CTC head."""
        tower = self._tower
        pieces = [part for waveform in waveforms for part in self._cut(waveform)]
        sample_lens = torch.tensor([len(piece) for piece in pieces])
        heard_lens = sample_lens.clamp(min=tower.min_samples)
        padded = self._upload(pieces)
        padded = F.pad(padded, (0, int(heard_lens.max()) - padded.shape[1]))
        packed = tower(log_mel(padded, heard_lens, tower.num_mels), sample_lens).to(self._options.embeds_dtype)
        audio_lens = [self.num_audio_tokens(len(waveform)) for waveform in waveforms]
        embeds, done = to_cpu(pad_sequence(list(torch.split(packed, audio_lens)), batch_first=True))
        return EncodedBatch(
            audio_embeds=embeds, audio_lens=audio_lens, ctc_hidden=None, encoder_lens=audio_lens, done=done
        )

    def _pieces(self, num_samples: int) -> list[int]:
        """Lengths of the pieces that a clip is heard in."""
        size = self._tower.max_samples or num_samples
        return [min(size, num_samples - start) for start in range(0, num_samples, size)]

    def _cut(self, waveform: np.ndarray) -> list[np.ndarray]:
        bounds = np.cumsum(self._pieces(len(waveform)))
        return np.split(waveform, bounds[:-1])


def load_module(path: Path, make: Callable[[], Module], options: StageOneOptions) -> Module:
    """The module that `make` builds, with the tensors of a safetensors file, ready to run.

    Raises:
        CheckpointError: tensors that are missing, left over or of another shape.
    """
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
