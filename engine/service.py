"""One loaded model for many callers, on any thread or event loop.

A thread of its own runs both stages for all of them: whatever waits is encoded together, and every answer is decoded in
one continuous batch, whoever asked. The steps are those of the offline loop (pipeline.py); only who brings the clips
and how long they may gather differs.

    service = TranscriptionService(model.transcriber)
    future = service.submit(waveform, transcribe_options(language="en"))
    future.result().text                # or: await asyncio.wrap_future(future)
"""

import contextlib
import logging
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from .acoustic.cuda_graphs import MAX_CLIPS
from .acoustic.threads import one_thread
from .audio.decode import Waveform
from .audio.inputs import AudioInput
from .checks import check_arguments, check_text
from .clip import Clip, Result
from .decoder.base import POLL_S
from .errors import (
    ASRError,
    ConfigError,
    DecodeError,
    QueueFullError,
    ServiceClosedError,
    UnsupportedAudioError,
)
from .isolation import alone, caught
from .model import LoadedModel
from .pipeline import Pipeline
from .run_options import TranscribeOptions
from .timeline import NullTimeline, Timeline
from .transcript import Transcript

MAX_WAITING = 512  # jobs that are not encoded yet; clips of 30 s take 1 GB
BATCH_WAIT_S = 0.003  # that a job waits for others to be encoded with; most of what a batch of one costs on a GPU
MIN_SAMPLES = 2  # that features can be computed of
IDLE_CHECK_S = 1.0  # between two looks at whether an idle engine still lives

logger = logging.getLogger(__name__)

OnText = Callable[[str], None]


@dataclass(slots=True, eq=False)
class _Job:
    """What one caller asked for, until its future is done."""

    key: str
    options: TranscribeOptions
    answer_prefix: str
    is_speech: bool
    on_text: OnText | None
    future: Future[Transcript]
    submitted: float  # time.monotonic()
    num_emitted: int = 0  # tokens whose text on_text has seen


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A job that is not encoded yet."""

    index: int  # of its clip
    waveform: Waveform
    num_frames: int  # what encoding it costs


class TranscriptionService:
    """Transcribes for all callers at once; it has the model to itself until it is closed.

    generate() waits for that in other threads than the one that made the service, where it is an error. Closing the
    model closes its service.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_waiting: int = MAX_WAITING,
        batch_wait_s: float = BATCH_WAIT_S,
        timeline: Timeline | None = None,
    ) -> None:
        """Start the thread. `timeline` sees every step of both stages, from that thread.

        Raises:
            ConfigError: a number out of range, or the model is at work for someone else.
        """
        check_arguments(TranscriptionService.__init__, max_waiting=max_waiting, batch_wait_s=batch_wait_s)
        if max_waiting < 1 or batch_wait_s < 0:
            raise ConfigError(f"max_waiting must be at least 1, batch_wait_s 0 or more: {max_waiting}, {batch_wait_s}")
        if not model.lock.acquire(blocking=False, on_close=self.close):
            raise ConfigError("this model is at work for another service or a running generate()")
        self.failed = False  # the engine, or this thread, has died; nothing will be transcribed any more
        self._model = model
        self._max_waiting = max_waiting
        self._batch_wait_s = batch_wait_s
        self._pipeline = Pipeline(model, timeline or NullTimeline(), align_wait_s=0.0)
        self._lock = threading.Lock()  # over the five that stream_tokens, and `failed`
        self._jobs: dict[int, _Job] = {}  # all that are not done, by the index of their clip
        self._waiting: deque[_Waiting] = deque()  # those of them that are not encoded
        self._cancelled: set[int] = set()
        self._next_index = 0
        self._closes_at: float | None = None  # time.monotonic(); None while work is taken
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()  # select() fails where 1,024 files are open
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._is_woken = False  # since the thread has last looked
        self._thread = threading.Thread(target=self._main, name="transcription-service", daemon=True)
        self._thread.start()

    def submit(
        self,
        waveform: Waveform,
        options: TranscribeOptions,
        *,
        key: str = "audio",
        answer_prefix: str = "",
        is_speech: bool = False,
        on_text: OnText | None = None,
    ) -> Future[Transcript]:
        """Transcribe (N,) float32 samples, 16 kHz; returns at once.

        Args:
            options: `batch_size`, `limits` and `allow_urls` are for reading, and mean nothing here.
            key: the transcript's key.
            answer_prefix: text that the answer is made to begin with, and that the transcript's text includes.
            is_speech: a VAD has cut this out as speech, as it does with the segments of long recordings. The check of
                the text then takes all of it for speech, and does not ask a VAD again.
            on_text: called from the service's thread with the whole text so far whenever that has changed; it grows,
                unless a text that goes round in circles is written anew. It must return soon. If it raises, its own
                future gets the error.

        Returns:
            A future of the transcript, of status "error" where this input cannot be transcribed. Cancelling it drops
            the work in both stages. It raises DecodeError when the engine fails, ServiceClosedError when the service
            is closed before the answer is there.

        Raises:
            UnsupportedAudioError: not such samples. ConfigError: a language that the family does not know, or an
            answer_prefix that is no text. QueueFullError: too much is waiting. ServiceClosedError, DecodeError: nothing
            will be transcribed any more.
        """
        self._model.lock.require_open()
        _check_samples(waveform)
        self._model.family.prompt_text(options.request)
        check_text("answer_prefix", answer_prefix)
        num_frames = self._model.acoustic.num_frames(len(waveform))
        future: Future[Transcript] = Future()
        with self._lock:
            self._require_open()
            if len(self._waiting) >= self._max_waiting:
                raise QueueFullError(
                    f"{len(self._waiting)} clips are waiting already, at most {self._max_waiting} may; try again later"
                )
            index = self._next_index
            self._next_index += 1
            self._jobs[index] = _Job(key, options, answer_prefix, is_speech, on_text, future, time.monotonic())
            self._waiting.append(_Waiting(index, waveform, num_frames))
        future.add_done_callback(lambda done: self._cancel(index) if done.cancelled() else None)
        self._wake()
        return future

    @property
    def model(self) -> LoadedModel:
        """Both stages of the model; nobody else may run them until this service is closed."""
        return self._model

    @property
    def num_waiting(self) -> int:
        """Jobs that are not encoded yet."""
        return len(self._waiting)

    @property
    def num_jobs(self) -> int:
        """Jobs that are not done."""
        return len(self._jobs)

    def close(self, *, drain_s: float = 0.0) -> None:
        """Take no more work, go on for at most `drain_s` with what there is, and drop the rest; idempotent.

        The model stays loaded and can be used again.
        """
        with self._lock:
            if self._closes_at is None:
                self._closes_at = time.monotonic() + drain_s
        self._wake()
        self._thread.join()

    def _require_open(self) -> None:
        if self.failed:
            raise DecodeError("the engine of this service has failed; build a new one")
        if self._closes_at is not None:
            raise ServiceClosedError("this service is closed")

    def _cancel(self, index: int) -> None:
        """Called by whoever cancels a future."""
        with self._lock:
            self._cancelled.add(index)
        self._wake()

    def _wake(self) -> None:
        """Make the thread look at what was asked for; once is enough, since a system call gives away Python's lock."""
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(OSError):  # it has ended
                self._waker.send(b"\0")

    def _clear_wake(self) -> None:
        """Before the next look at what was asked for. The flag falls after the byte is read, or one might be lost."""
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
            self._is_woken = False

    def _main(self) -> None:
        """The thread: the loop, and an end for every future however the loop ends."""
        error: ASRError = DecodeError("the thread of this service has ended; its log says why")
        try:
            with one_thread(active=self._model.device.type != "cpu"):
                self._loop()
            error = ServiceClosedError("the service was closed before this was transcribed")
        except ASRError as failure:
            logger.error("the engine has failed: %s", failure)
            error = failure
        finally:
            self._end(error)

    def _end(self, error: ASRError) -> None:
        """Whatever fails here, every future gets an end, and the model is free for others."""
        with contextlib.ExitStack() as last:
            last.callback(self._model.lock.release)
            last.callback(self._pipeline.cancel)
            last.callback(self._waker.close)
            last.callback(self._woken.close)
            last.callback(self._selector.close)
            self._end_jobs(error)

    def _end_jobs(self, error: ASRError) -> None:
        with self._lock:
            self.failed = not isinstance(error, ServiceClosedError)
            self._closes_at = 0.0
            jobs = list(self._jobs.values())
            self._jobs.clear()
            self._waiting.clear()
        for job in jobs:
            _end_of(job, partial(job.future.set_exception, type(error)(str(error))))

    def _loop(self) -> None:
        """A batch through stage 1, a step of stage 2, and again."""
        pipeline = self._pipeline
        while not self._is_over():
            self._drop_cancelled()
            due_s = self._due_s()
            batch = self._next_batch() if due_s <= 0 else []
            self._deliver(pipeline.encode(batch) if batch else pipeline.submit())
            self._deliver(pipeline.collect(wait_s=min(due_s, POLL_S), wake=self._woken.fileno()))
            self._emit_partials()
            if pipeline.is_idle:
                self._selector.select(min(due_s, IDLE_CHECK_S))
            self._clear_wake()

    def _is_over(self) -> bool:
        with self._lock:
            return self._closes_at is not None and (not self._jobs or time.monotonic() >= self._closes_at)

    def _drop_cancelled(self) -> None:
        with self._lock:
            dropped, self._cancelled = self._cancelled, set()
            if not dropped:
                return
            for index in dropped:
                self._jobs.pop(index, None)
            self._waiting = deque(entry for entry in self._waiting if entry.index not in dropped)
        self._deliver(self._pipeline.submit())  # so that stage 2 has all that are encoded
        self._pipeline.drop(dropped)

    def _due_s(self) -> float:
        """Seconds until the next batch shall be encoded, at most 0 if now."""
        with self._lock:
            decoder = self._model.decoder
            if not self._waiting or decoder.num_pending >= decoder.max_pending:
                return math.inf
            _, is_full = self._front()
            oldest = self._jobs[self._waiting[0].index].submitted
        return 0.0 if is_full else max(0.0, oldest + self._batch_wait_s - time.monotonic())

    def _front(self) -> tuple[int, bool]:
        """How many of those that wait longest make a batch, and whether that is full. Called with the lock held.

        A batch of more than MAX_CLIPS would cost a GPU no less for each clip, its launches Python's lock, and those in
        it the time until all are encoded: the first batches of a burst are decoded while the others are encoded.
        """
        longest = 0
        for size, entry in enumerate(self._waiting):
            longest = max(longest, entry.num_frames)
            if size and (size == MAX_CLIPS or (size + 1) * longest > self._model.max_batch_frames):
                return size, True
        return len(self._waiting), False

    def _next_batch(self) -> list[Clip]:
        with self._lock:
            size, _ = self._front()
            entries = [self._waiting.popleft() for _ in range(size)]
            jobs = [(entry, self._jobs[entry.index]) for entry in entries]
        clips = []
        for entry, job in jobs:
            item = AudioInput(key=job.key, source=entry.waveform)
            clip = self._pipeline.prepare(
                entry.index,
                item,
                entry.waveform,
                job.options,
                answer_prefix=job.answer_prefix,
                is_speech=job.is_speech,
                is_followed=job.on_text is not None,
            )
            if isinstance(clip, Transcript):
                self._deliver([(entry.index, clip)])
            else:
                clips.append(clip)
        return clips

    def _deliver(self, results: Iterable[Result]) -> None:
        for index, transcript in results:
            with self._lock:
                job = self._jobs.pop(index, None)
            if job is not None:
                _end_of(job, partial(job.future.set_result, transcript))

    def _emit_partials(self) -> None:
        """Show the callers who want it how far their texts are."""
        for prompt_id, clip in self._pipeline.decoding.items():
            job = self._jobs.get(clip.index)
            if job is None or job.on_text is None:
                continue
            outcome: object = alone("show", clip, partial(self._new_text, job, clip, prompt_id))
            if isinstance(outcome, str):
                outcome = caught(partial(job.on_text, outcome))
            if isinstance(outcome, Exception):
                _end_of(job, partial(job.future.set_exception, outcome))
                self._cancel(clip.index)

    def _new_text(self, job: _Job, clip: Clip, prompt_id: int) -> str | None:
        """The text so far, if more is written than on_text has seen."""
        token_ids = self._model.decoder.partial_tokens(prompt_id)
        if len(token_ids) == job.num_emitted:
            return None
        job.num_emitted = len(token_ids)  # fewer than before when it is written a second time
        # The last character may lack its last bytes.
        return self._pipeline.text_so_far(clip, token_ids).removesuffix("\N{REPLACEMENT CHARACTER}")


def _check_samples(waveform: object) -> None:
    """Raises UnsupportedAudioError for anything but the samples of a clip."""
    if not isinstance(waveform, np.ndarray):
        raise UnsupportedAudioError(f"samples must be an array of (N,) float32, got {type(waveform).__name__}")
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        found = f"{waveform.dtype} of shape {waveform.shape}"
        raise UnsupportedAudioError(f"samples must be an array of (N,) float32, got {found}")
    if len(waveform) < MIN_SAMPLES:
        raise UnsupportedAudioError(f"audio must have at least {MIN_SAMPLES} samples, got {len(waveform)}")


def _end_of(job: _Job, end: Callable[[], None]) -> None:
    """Give a job's future its end, unless its caller has cancelled it, or has ended it in some other way."""

    def deliver() -> None:
        if job.future.set_running_or_notify_cancel():
            end()

    alone("deliver", job.key, deliver)
