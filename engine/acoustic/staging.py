"""Waveforms -> one padded batch on stage 1's device. A GPU is fed through pinned buffers that are reused.

Pinning 150 MB takes 40 ms, and filling it on one core takes as long again: more than the GPU needs to encode it. So two
pinned buffers are kept. A few threads fill one of them while the other is being copied to the GPU.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..cores import usable_cores

Upload = Callable[[Sequence[np.ndarray]], Tensor]  # (N,) float32 each -> (B, longest N), padded with zeros

_NUM_THREADS = min(4, usable_cores())  # more do not copy faster


def uploader(device: torch.device) -> Upload:
    """The function that copies batches to `device`."""
    if device.type == "cuda":
        return WaveformStaging(device).upload
    return lambda waveforms: pad_sequence([torch.from_numpy(one) for one in waveforms], batch_first=True).to(device)


@dataclass(slots=True, eq=False)
class _Buffer:
    memory: Tensor  # (N,) float32, pinned
    copied: torch.cuda.Event  # completes with the copy to the GPU; then the memory may be written again


class WaveformStaging:
    """Uploads batches to one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()  # for a batch of `prepare`, which has a thread of its own
        self._buffers = [_Buffer(torch.empty(0), torch.cuda.Event()) for _ in range(2)]  # type: ignore[no-untyped-call]
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="stage-audio")

    def upload(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Pad and copy a batch, see Upload. The copy to the GPU is queued, not awaited."""
        with self._lock:
            return self._uploaded(waveforms)

    def _uploaded(self, waveforms: Sequence[np.ndarray]) -> Tensor:
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
