"""Waveforms -> one batch on a device, padded or joined. A GPU is fed through pinned buffers that are reused.

Pinning 150 MB takes 40 ms, and filling it on one core takes as long again: more than the GPU needs to encode it. So two
pinned buffers are kept. A few threads fill one of them while the other is being copied to the GPU.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..cores import usable_cores

Upload = Callable[[Sequence[np.ndarray]], Tensor]  # (N,) float32 each -> (B, longest N), padded with zeros; or joined

_NUM_THREADS = min(4, usable_cores())  # more do not copy faster
_FEW_SAMPLES = 1 << 18  # 1 MB is copied sooner than threads have woken up


def uploader(device: torch.device, *, joined: bool = False) -> Upload:
    """The function that copies batches to `device`, each waveform padded to the longest, or all `joined`."""
    if device.type == "cuda":
        staging = WaveformStaging(device)
        return staging.upload_joined if joined else staging.upload
    if joined:
        return lambda waveforms: torch.from_numpy(np.concatenate(waveforms)).to(device)
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
        """Pad and copy a batch: (B, longest N). The copy to the GPU is queued, not awaited."""
        longest = max(map(len, waveforms))
        return self._uploaded(waveforms, [longest] * len(waveforms)).view(len(waveforms), longest)

    def upload_joined(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Copy waveforms, one after the other: (sum of N,). The copy to the GPU is queued, not awaited."""
        return self._uploaded(waveforms, list(map(len, waveforms)))

    def _uploaded(self, waveforms: Sequence[np.ndarray], sizes: Sequence[int]) -> Tensor:
        *starts, total = itertools.accumulate(sizes, initial=0)
        with self._lock:
            self._buffers.reverse()
            buffer = self._buffers[0]
            buffer.copied.synchronize()
            if buffer.memory.numel() < total:
                buffer.memory = torch.empty(total, pin_memory=True)
            rows = list(zip(np.split(buffer.memory[:total].numpy(), starts[1:]), waveforms, strict=True))
            if total <= _FEW_SAMPLES:
                _fill(rows)
            else:
                list(self._threads.map(_fill, (rows[start::_NUM_THREADS] for start in range(_NUM_THREADS))))
            on_device = buffer.memory[:total].to(self._device, non_blocking=True)
            buffer.copied.record()
        return on_device


def _fill(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    for row, waveform in rows:
        row[: len(waveform)] = waveform
        row[len(waveform) :] = 0.0
