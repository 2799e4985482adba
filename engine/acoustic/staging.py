"""Waveforms -> one padded batch on stage 1's device; to a GPU through pinned memory that is kept.

To pin 150 MB takes 40 ms, and one core fills them in as many: more than the GPU takes to encode them. So there are two
buffers, filled by a few threads in turn, one while the other is on its way.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Upload = Callable[[Sequence[np.ndarray]], Tensor]  # (N,) float32 each -> (B, longest), zero where one has ended

_NUM_THREADS = min(4, os.cpu_count() or 1)  # more do not copy faster


def uploader(device: torch.device) -> Upload:
    """What brings batches to a device."""
    if device.type == "cuda":
        return WaveformStaging(device).upload
    return lambda waveforms: pad_sequence([torch.from_numpy(one) for one in waveforms], batch_first=True).to(device)


@dataclass(slots=True, eq=False)
class _Buffer:
    memory: Tensor  # (N,) float32, pinned
    copied: torch.cuda.Event  # after which it may be written again


class WaveformStaging:
    """Uploads batches to one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [_Buffer(torch.empty(0), torch.cuda.Event()) for _ in range(2)]  # type: ignore[no-untyped-call]
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="stage-audio")

    def upload(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """See Upload; the copy is only queued."""
        self._buffers.reverse()
        buffer = self._buffers[0]
        buffer.copied.synchronize()
        shape = len(waveforms), max(map(len, waveforms))
        size = shape[0] * shape[1]
        if buffer.memory.numel() < size:
            buffer.memory = torch.empty(size, pin_memory=True)
        padded = buffer.memory[:size].view(shape)
        rows = list(zip(padded.numpy(), waveforms, strict=True))
        list(self._threads.map(_fill, (rows[start::_NUM_THREADS] for start in range(_NUM_THREADS))))
        on_device = padded.to(self._device, non_blocking=True)
        buffer.copied.record()
        return on_device


def _fill(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    for row, waveform in rows:
        row[: len(waveform)] = waveform
        row[len(waveform) :] = 0.0
