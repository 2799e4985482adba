"""SpeakerModel: samples -> speaker embeddings, in batches on the model's device.

On a GPU, windows are embedded in batches of a few fixed sizes, each of them as one CUDA graph: the networks launch
several hundred kernels, which take longer to launch than to run. While the GPU computes one batch, the next is filled.
Windows overlap by half, so stretches of samples are copied to the device, and the windows are cut there.
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
from ...encoders.upload import to_cpu, to_device
from ..acoustic.cuda_graphs import SmallBatchGraphs
from ..acoustic.staging import uploader
from ..audio.waveform import Waveform
from ..errors import InternalError

WINDOW_SAMPLES = 24_000  # 1.5 s, as the published models were tuned for; a shorter waveform is repeated up to this
_SHARES = (16, 4, 1)  # of the largest batch on a GPU, those that smaller ones are filled up to
Embeddings = npt.NDArray[np.float32]  # (N, D), each row of length 1
Bounds = tuple[int, int]  # first and last sample of a window
Parts = Sequence[tuple[Waveform, Sequence[Bounds]]]  # (N,) float32 at 16 kHz each, and the windows of each
Places = npt.NDArray[np.int64]  # (N, 3): the number of each window's waveform, and its first and last sample in that


class SpeakerModel(Protocol):
    """Gives the same voice similar directions."""

    def embed_windows(self, parts: Parts) -> Embeddings:
        """The embeddings of all windows, in order."""

    def embed(self, waveforms: Sequence[Waveform]) -> Embeddings:
        """The embeddings of whole waveforms."""
        return self.embed_windows([(waveform, [(0, len(waveform))]) for waveform in waveforms])

    def warm_up(self) -> None:
        """Prepare what the first windows would otherwise wait for."""


class TorchSpeakerModel(SpeakerModel):
    """A network of encoders/ on a device. The result for a window does not depend on the others of the call.

    On a GPU it computes on a stream of its own, so that reading its results does not wait for stage 1.
    """

    def __init__(self, network: nn.Module, device: torch.device, size: int, *, batch_windows: int) -> None:
        """`network`: (B, T, 80) -> (B, size). `batch_windows`: that many times 1.5 s are computed at once."""
        self.network, self.size = network, size
        self._batch_windows = batch_windows
        self._upload = uploader(device, joined=True)
        self._lock = threading.Lock()  # the buffers and the graphs serve one call at a time
        self._stream: torch.cuda.Stream | None = None
        self._graphs: SmallBatchGraphs | None = None
        self._is_warm = False
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._graphs = SmallBatchGraphs(lambda fbank, _: (network(fbank),), max_clips=batch_windows, frame_step=1)

    def embed_windows(self, parts: Parts) -> Embeddings:
        """See SpeakerModel. Windows of equal length are embedded together, so that none needs padding."""
        waveforms, places = _placed(parts)
        embeddings = np.zeros((len(places), self.size), np.float32)
        if not len(places):
            return embeddings
        on_stream = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with self._lock, on_stream, torch.inference_mode():
            batches = list(self._batches(places))
            begun = [self._embed(waveforms, places[batch]) for batch in batches]
            rows, done = to_cpu(torch.cat(begun), sleeps=True)  # the GPU has much else to do before it is done
            if done is not None:
                done.synchronize()
            embeddings[np.concatenate(batches)] = rows.numpy()
        return embeddings

    def warm_up(self) -> None:
        """On a GPU, load the kernels and capture the graphs of all sizes of batches, the smallest first; once."""
        if self._graphs is None or self._is_warm:
            return
        for share in _SHARES:
            self.embed([np.zeros(WINDOW_SAMPLES, np.float32)] * (self._batch_windows // share))
        self._is_warm = True

    def _batches(self, places: Places) -> Iterator[npt.NDArray[np.int64]]:
        """The numbers of the windows of each batch, which are of one length."""
        lengths = places[:, 2] - places[:, 1]
        for num_samples in np.unique(lengths):
            numbers = np.flatnonzero(lengths == num_samples)
            size = max(self._batch_windows * WINDOW_SAMPLES // int(num_samples), 1)
            yield from (numbers[start : start + size] for start in range(0, len(numbers), size))

    def _embed(self, waveforms: Sequence[Waveform], places: Places) -> Tensor:
        """(B, D) on the device, of windows of one length."""
        num_samples = int(places[0, 2] - places[0, 1])
        fbank = speaker_fbank(self._cut(waveforms, places, num_samples))
        return F.normalize(self._run(fbank, is_window=num_samples == WINDOW_SAMPLES), dim=-1)

    def _cut(self, waveforms: Sequence[Waveform], places: Places, num_samples: int) -> Tensor:
        """(B, num_samples) on the device. What neighbouring windows of a waveform share is copied to it once."""
        runs = np.flatnonzero(np.diff(places[:, 0], prepend=-1))  # of windows of one waveform
        firsts, lasts = np.minimum.reduceat(places[:, 1], runs), np.maximum.reduceat(places[:, 2], runs)
        spans = zip(places[runs, 0].tolist(), firsts.tolist(), lasts.tolist(), strict=True)
        joined = self._upload([waveforms[number][first:last] for number, first, last in spans])
        begins = np.cumsum(lasts - firsts) - lasts  # where in `joined` the first sample of each waveform would be
        starts = places[:, 1] + np.repeat(begins, np.diff(runs, append=len(places)))
        return joined.unfold(0, num_samples, 1)[to_device(torch.from_numpy(starts), joined.device)]

    def _run(self, fbank: Tensor, *, is_window: bool) -> Tensor:
        if self._graphs is None or not is_window:
            rows: Tensor = self.network(fbank)
            return rows
        size = next(size for share in _SHARES if (size := self._batch_windows // share) >= len(fbank))
        filled = F.pad(fbank, (0, 0, 0, 0, 0, size - len(fbank)))
        return self._graphs(filled, fbank.new_ones(size))[0][: len(fbank)]


def embed_windows(model: SpeakerModel, parts: Parts) -> list[Embeddings]:
    """The embeddings of the windows of each waveform, all in one call of the model.

    Raises InternalError if one is not finite.
    """
    if not any(windows for _, windows in parts):
        return [np.zeros((0, 0), np.float32) for _ in parts]
    rows = model.embed_windows(parts)
    if not np.isfinite(rows).all():
        raise InternalError("the speaker model's embeddings are not finite")
    ends = itertools.accumulate(len(windows) for _, windows in parts)
    return [rows[end - len(windows) : end] for end, (_, windows) in zip(ends, parts, strict=True)]


def _placed(parts: Parts) -> tuple[list[Waveform], Places]:
    """The places of all windows. One that is too short is repeated, and so is a waveform of its own."""
    waveforms: list[Waveform] = []
    places: list[tuple[int, int, int]] = []
    for waveform, windows in parts:
        number = len(waveforms)
        waveforms.append(waveform)
        for first, bound in windows:
            last = min(bound, len(waveform))
            if last - first >= WINDOW_SAMPLES:
                places.append((number, first, last))
            else:
                places.append((len(waveforms), 0, WINDOW_SAMPLES))
                waveforms.append(np.resize(waveform[first:last], WINDOW_SAMPLES))
    return waveforms, np.array(places, np.int64).reshape(-1, 3)
