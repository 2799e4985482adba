"""The interface of stage 1: waveforms -> embeddings. It knows no family: families/ imports it, and not the reverse."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUtterance:
    """Stage 1's result for one clip."""

    audio_embeds: Tensor  # (A, hidden_size) on the CPU, in the LLM's dtype
    ctc_hidden: Tensor | None  # (T, D) hidden states of the CTC head on stage 1's device; None unless requested


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedBatch:
    """Stage 1's result for B clips, padded. A GPU may still be computing it; `utterances` waits for that."""

    audio_embeds: Tensor  # (B, A, hidden_size) on the CPU
    audio_lens: list[int]  # rows of each clip in `audio_embeds`
    ctc_hidden: Tensor | None  # (B, T, D) on stage 1's device
    encoder_lens: list[int]  # frames of each clip in `ctc_hidden`
    done: torch.cuda.Event | None = None  # completes when the GPU has written `audio_embeds`; None on other devices

    @property
    def is_done(self) -> bool:
        """Whether `utterances` returns without waiting."""
        return self.done is None or bool(self.done.query())  # type: ignore[no-untyped-call]

    def utterances(self) -> list[EncodedUtterance]:
        """Wait for the result, and return views of each clip's rows without padding."""
        if self.done is not None:
            self.done.synchronize()
        hidden: Iterable[Tensor | None] = repeat(None) if self.ctc_hidden is None else self.ctc_hidden
        rows = zip(self.audio_embeds, self.audio_lens, hidden, self.encoder_lens, strict=False)
        return [EncodedUtterance(embeds[:a], None if h is None else h[:t]) for embeds, a, h, t in rows]


@dataclass(frozen=True, slots=True)
class StageOneOptions:
    """Where and how stage 1 runs."""

    device: torch.device
    dtype: torch.dtype  # of the encoder's weights
    embeds_dtype: torch.dtype  # of the embeddings for the LLM
    dither: float = 0.0  # standard deviation of the noise added to the samples, on the scale of 16-bit integers
    word_processes: int = 0  # worker processes that find word times


class AcousticModel(Protocol):
    """Stage 1: waveforms -> embeddings."""

    def num_frames(self, num_samples: int) -> int:
        """The cost of encoding a clip, in frames of 60 ms."""

    def num_audio_tokens(self, num_samples: int) -> int:
        """The number of LLM positions that a clip takes."""

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        """Encode one batch of (N,) float32 waveforms at 16 kHz; on a GPU the work is queued, not awaited.

        `with_ctc` requests `ctc_hidden`, if the checkpoint has a CTC head.
        """

    def prepare(self) -> None:
        """Do what makes later batches faster, while another thread encodes; called once, if at all."""

    def further_steps(self) -> Sequence[Callable[[], None]]:
        """What spares the first batch of each usual size a wait; done after `prepare`, while another thread encodes."""
