"""SpeakerQueue: embeds the speech of a run, or of all callers of a service, in batches, in a thread of its own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ASRError, ConfigError, ServiceClosedError
from ..isolation import alone, caught, isolated
from .model import Bounds, Embeddings, SpeakerModel, embed_windows

BATCH_WINDOWS = 512  # two batches of CAM++ on a GPU: the second is filled while the first is computed
RETRY_S = 60.0  # from a failure to load the model to the next attempt, which may have to ask a hub


logger = logging.getLogger(__name__)


class ModelSource(Protocol):
    """A LazySpeakerModel, or another thing that loads a speaker model when it is asked for."""

    def get(self) -> SpeakerModel: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    waveform: Waveform
    windows: Sequence[Bounds]
    future: Future[Embeddings] = field(default_factory=Future)

    def __str__(self) -> str:
        return f"{len(self.waveform) / SAMPLE_RATE:.1f} s of speech"


class SpeakerQueue:
    """Embeds first what comes first; what has come meanwhile is embedded together."""

    def __init__(self, source: ModelSource | None, *, on_gpu: bool, least_windows: int = 0) -> None:
        """The model is loaded for the first job, and warmed up once that is done, both in the queue's thread.

        Args:
            on_gpu: it computes on one, as acoustic/threads.py explains.
            least_windows: so many are waited for before a batch begins, or for flush().
        """
        self._source = source
        self._least_windows = least_windows
        self._lock = threading.Lock()  # guards the five attributes below
        self._jobs: deque[_Job] = deque()
        self._num_windows = 0  # of the jobs
        self._num_flushed = 0  # of the jobs, those that wait for no others
        self._is_working = False
        self._is_closed = False
        self._failure: tuple[float, ASRError] | None = None  # why there is no model, and time.monotonic() of that
        self._is_warm = False
        self._thread = ThreadPoolExecutor(1, "speakers", partial(torch.set_num_threads, 1) if on_gpu else None)

    def embed(self, waveform: Waveform, windows: Sequence[Bounds]) -> Future[Embeddings]:
        """Embeddings (len(windows), D), each of length 1, of windows of (N,) float32 samples at 16 kHz.

        Without windows, the future says no more than that there is a model, or why there is none.

        Raises:
            ConfigError: the service's model was loaded without a speaker model.
            ServiceClosedError: the queue is closed. The future raises it if that happens later, or another ASRError if
                there is no model or this waveform cannot be embedded.
        """
        if self._source is None:
            raise ConfigError("this model was loaded without a speaker model")
        job = _Job(waveform, windows)
        with self._lock:
            if self._is_closed:
                raise ServiceClosedError("this service is closed")
            self._jobs.append(job)
            self._num_windows += len(windows)
            self._begin()
        return job.future

    def prepare(self) -> None:
        """Load the model and warm it up before any job; returns at once. The jobs say why there is none."""
        self._thread.submit(self._prepare)

    @property
    def is_idle(self) -> bool:
        """Nothing is being embedded, though jobs may wait for others."""
        return not self._is_working

    def flush(self) -> None:
        """Let none of the jobs so far wait for others."""
        with self._lock:
            self._num_flushed = len(self._jobs)
            self._begin()

    def close(self) -> None:
        """End the thread after the batch at hand, and fail the rest; idempotent."""
        with self._lock:
            self._is_closed = True
        self._thread.shutdown(cancel_futures=True)
        for job in self._taken(float("inf")):
            job.future.set_exception(ServiceClosedError("the service was closed before this was embedded"))

    def _is_due(self) -> bool:
        return bool(self._jobs) and (self._num_flushed > 0 or self._num_windows >= self._least_windows)

    def _begin(self) -> None:
        if not self._is_working and self._is_due():
            self._is_working = True
            self._thread.submit(self._work)

    def _work(self) -> None:
        """Embed batch after batch until none is due."""
        while batch := self._next():
            self._embed(batch)

    def _prepare(self) -> None:
        model = self._model()
        if not isinstance(model, ASRError):
            self._warm_up(model)

    def _warm_up(self, model: SpeakerModel) -> None:
        """Once. A job without windows is done before that, and others find a model that is ready for them."""
        if self._is_warm:
            return
        self._is_warm = True
        failure = caught(model.warm_up)
        if isinstance(failure, Exception):
            logger.warning("the speaker model was not warmed up, so that its first windows take longer: %r", failure)

    def _next(self) -> list[_Job]:
        """The next batch; empty if none is due. Cancelled jobs are left out, so it is looked for until there is one."""
        with self._lock:
            while self._is_due() and not self._is_closed:
                if batch := self._taken(BATCH_WINDOWS):
                    return batch
            self._is_working = False
            return []

    def _embed(self, batch: Sequence[_Job]) -> None:
        model = self._model()
        if isinstance(model, ASRError):
            for job in batch:
                job.future.set_exception(type(model)(str(model)))
            return
        found = isolated(
            "speakers", batch, lambda jobs: embed_windows(model, [(job.waveform, job.windows) for job in jobs])
        )
        for job, rows in zip(batch, found, strict=True):
            if isinstance(rows, ASRError):
                job.future.set_exception(rows)
            else:
                job.future.set_result(rows)
        self._warm_up(model)

    def _taken(self, most_windows: float) -> list[_Job]:
        """The oldest jobs whose futures nobody has cancelled, of at most so many windows, but at least one."""
        taken: list[_Job] = []
        num = 0
        while self._jobs and (not taken or num + len(self._jobs[0].windows) <= most_windows):
            job = self._jobs.popleft()
            self._num_windows -= len(job.windows)
            self._num_flushed = max(self._num_flushed - 1, 0)
            if job.future.set_running_or_notify_cancel():
                taken.append(job)
                num += len(job.windows)
        return taken

    def _model(self) -> SpeakerModel | ASRError:
        if self._failure is not None and time.monotonic() < self._failure[0] + RETRY_S:
            return self._failure[1]
        assert self._source is not None
        model = alone("speakers", "the speaker model", self._source.get)
        self._failure = (time.monotonic(), model) if isinstance(model, ASRError) else None
        return model
