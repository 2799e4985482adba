"""SpeakerModel: samples -> speaker embeddings, in batches on the model's device.

On a GPU, windows are embedded in batches of a few fixed sizes, each of them as one CUDA graph: the networks launch
several hundred kernels, which take longer to launch than to run. While the GPU computes one batch, the next is filled.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...encoders.fbank import speaker_fbank
from ...encoders.upload import to_cpu
from ..acoustic.cuda_graphs import SmallBatchGraphs
from ..acoustic.staging import uploader
from ..audio.waveform import Waveform
from ..errors import InternalError

WINDOW_SAMPLES = 24_000  # 1.5 s, as the published models were tuned for; a shorter waveform is repeated up to this
_SHARES = (16, 4, 1)  # of the largest batch on a GPU, those that smaller ones are filled up to
Embeddings = npt.NDArray[np.float32]  # (N, D), each row of length 1
Bounds = tuple[int, int]  # first and last sample of a window


class SpeakerModel(Protocol):
    """Gives the same voice similar directions."""

    def embed(self, waveforms: Sequence[Waveform]) -> Embeddings:
        """(N_i,) float32 at 16 kHz each -> (len(waveforms), D) float32, each row of length 1."""

    def warm_up(self) -> None:
        """Prepare what the first windows would otherwise wait for."""


class TorchSpeakerModel:
    """A network of encoders/ on a device. The result for a waveform does not depend on the others of the call.

    On a GPU it computes on a stream of its own, so that reading its results does not wait for stage 1.
    """

    def __init__(self, network: nn.Module, device: torch.device, size: int, *, batch_windows: int) -> None:
        """`network`: (B, T, 80) -> (B, size). `batch_windows`: that many times 1.5 s are computed at once."""
        self.network, self.size = network, size
        self._batch_windows = batch_windows
        self._upload = uploader(device)
        self._lock = threading.Lock()  # the buffers and the graphs serve one call at a time
        self._stream: torch.cuda.Stream | None = None
        self._graphs: SmallBatchGraphs | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._graphs = SmallBatchGraphs(lambda fbank, _: (network(fbank),), max_clips=batch_windows, frame_step=1)

    def embed(self, waveforms: Sequence[Waveform]) -> Embeddings:
        """See SpeakerModel. Waveforms of equal length are embedded together, so that none needs padding."""
        repeated = [_long_enough(waveform) for waveform in waveforms]
        embeddings = np.zeros((len(waveforms), self.size), np.float32)
        on_stream = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with self._lock, on_stream, torch.inference_mode():
            begun = [
                (part, *to_cpu(self._embed([repeated[index] for index in part]))) for part in self._batches(repeated)
            ]
            for part, rows, done in begun:
                if done is not None:
                    done.synchronize()
                embeddings[part] = rows.numpy()
        return embeddings

    def warm_up(self) -> None:
        """On a GPU, load the kernels and capture the graphs of all sizes of batches, the smallest first."""
        for share in _SHARES if self._graphs is not None else ():
            self.embed([np.zeros(WINDOW_SAMPLES, np.float32)] * (self._batch_windows // share))

    def _batches(self, waveforms: Sequence[Waveform]) -> Iterator[list[int]]:
        """The places of the waveforms of each batch."""
        by_length: dict[int, list[int]] = {}
        for index, waveform in enumerate(waveforms):
            by_length.setdefault(len(waveform), []).append(index)
        for num_samples, indices in by_length.items():
            size = max(self._batch_windows * WINDOW_SAMPLES // num_samples, 1)
            yield from (indices[start : start + size] for start in range(0, len(indices), size))

    def _embed(self, waveforms: Sequence[Waveform]) -> Tensor:
        """(B, D) on the device, of waveforms of one length."""
        fbank = speaker_fbank(self._upload(waveforms))
        return F.normalize(self._run(fbank, is_window=len(waveforms[0]) == WINDOW_SAMPLES), dim=-1)

    def _run(self, fbank: Tensor, *, is_window: bool) -> Tensor:
        if self._graphs is None or not is_window:
            rows: Tensor = self.network(fbank)
            return rows
        size = next(size for share in _SHARES if (size := self._batch_windows // share) >= len(fbank))
        filled = F.pad(fbank, (0, 0, 0, 0, 0, size - len(fbank)))
        return self._graphs(filled, fbank.new_ones(size))[0][: len(fbank)]


def embed_windows(model: SpeakerModel, parts: Sequence[tuple[Waveform, Sequence[Bounds]]]) -> list[Embeddings]:
    """The embeddings of the windows of each waveform, all in one call of the model.

    Raises InternalError if one is not finite.
    """
    if not any(windows for _, windows in parts):
        return [np.zeros((0, 0), np.float32) for _ in parts]
    rows = model.embed([waveform[first:last] for waveform, windows in parts for first, last in windows])
    if not np.isfinite(rows).all():
        raise InternalError("the speaker model's embeddings are not finite")
    ends = itertools.accumulate(len(windows) for _, windows in parts)
    return [rows[end - len(windows) : end] for end, (_, windows) in zip(ends, parts, strict=True)]


def _long_enough(waveform: Waveform) -> Waveform:
    return waveform if len(waveform) >= WINDOW_SAMPLES else np.resize(waveform, WINDOW_SAMPLES)
