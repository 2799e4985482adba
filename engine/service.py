"""One loaded model that serves many callers, on any thread or event loop.

The service runs both stages in a thread of its own. It encodes the waiting clips of all callers together and decodes
all answers in one continuous batch. The steps are those of the offline loop (pipeline.py).

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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from .acoustic.cuda_graphs import MAX_CLIPS
from .acoustic.threads import one_thread
from .audio.inputs import AudioInput
from .audio.waveform import Waveform, check_samples
from .checks import check_arguments, check_text
from .clip import Clip, Result
from .decoder.base import POLL_S
from .errors import ASRError, ConfigError, DecodeError, QueueFullError, ServiceClosedError
from .isolation import alone, caught
from .model import LoadedModel
from .pipeline import Pipeline
from .run_options import TranscribeOptions
from .speakers.model import Bounds, Embeddings
from .speakers.queue import SpeakerQueue
from .timeline import NullTimeline, Timeline
from .transcript import Transcript

MAX_WAITING = 512  # jobs that are not encoded yet; so many clips of 30 s take 1 GB
BATCH_WAIT_S = 0.003  # a job waits so long for others to share its batch; a GPU encodes one clip in little more
FEW_JOBS = 4  # that are not done: so few gain less by a common batch than they lose by waiting for it
ENCODING_WAIT_S = 0.001  # longest wait for news of stage 2 while stage 1 is at work
IDLE_CHECK_S = 1.0  # how often an idle service checks that the engine is alive

logger = logging.getLogger(__name__)

OnText = Callable[[str], None]


@dataclass(slots=True, eq=False)
class _Job:
    """One caller's request, until its future is done."""

    key: str
    options: TranscribeOptions
    answer_prefix: str
    is_speech: bool
    draft: str
    on_text: OnText | None
    future: Future[Transcript]
    submitted: float  # time.monotonic()
    num_emitted: int = 0  # tokens in the last partial text that on_text got


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A job that is not encoded yet."""

    index: int  # of its clip
    waveform: Waveform
    num_frames: int  # encoder frames of 60 ms, the cost of encoding it


class TranscriptionService:
    """Transcribes for all callers at once; it has the model to itself until it is closed.

    Meanwhile generate() raises ConfigError in the thread that made the service, and waits for its end in any other.
    Closing the model closes its service. Its thread holds it, and the model, until then, even if nobody else does.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_waiting: int = MAX_WAITING,
        batch_wait_s: float = BATCH_WAIT_S,
        timeline: Timeline | None = None,
    ) -> None:
        """Start the thread, which also records each step of both stages in `timeline`.

        Raises:
            ConfigError: a number is out of range, or the model is in use.
        """
        check_arguments(TranscriptionService.__init__, max_waiting=max_waiting, batch_wait_s=batch_wait_s)
        if max_waiting < 1 or batch_wait_s < 0:
            raise ConfigError(f"max_waiting must be at least 1, batch_wait_s 0 or more: {max_waiting}, {batch_wait_s}")
        if not model.lock.acquire(blocking=False, on_close=self.close):
            raise ConfigError("this model is at work for another service or a running generate()")
        self.failed = False  # the engine, or this thread, has died: the service transcribes nothing more
        self._model = model
        self._max_waiting = max_waiting
        self._batch_wait_s = batch_wait_s
        self._pipeline = Pipeline(model, timeline or NullTimeline(), align_wait_s=0.0)
        self._speakers = SpeakerQueue(model.speakers, on_gpu=model.device.type != "cpu")
        self._lock = threading.Lock()  # held to change the five attributes below, or `failed`; single reads need none
        self._jobs: dict[int, _Job] = {}  # all that are not done, by the index of their clip
        self._waiting: deque[_Waiting] = deque()  # those that are not encoded yet, the oldest first
        self._cancelled: set[int] = set()  # indices of jobs that the thread must drop
        self._next_index = 0
        self._closes_at: float | None = None  # time.monotonic(); None as long as the service takes work
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()  # select() fails for file descriptors above 1,023
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._is_woken = False  # whether a byte has been sent that the thread has not read
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
        draft: str = "",
        on_text: OnText | None = None,
    ) -> Future[Transcript]:
        """Transcribe (N,) float32 samples, 16 kHz; returns at once.

        Args:
            options: `batch_size`, `limits` and `allow_urls` concern the offline loop, and have no effect here.
                `speakers` must be None: see embed().
            key: the transcript's key.
            answer_prefix: text that the answer is made to begin with, and that the transcript's text includes.
            is_speech: a VAD has cut this out as speech, as it does the segments of long recordings. The check of the
                text then counts all of it as speech and does not run a VAD again.
            draft: a text that the answer is expected to be like, such as that of the same speech a moment before. It
                saves time, and changes no answer.
            on_text: called from the service's thread with the whole text so far, each time that changes. The text only
                grows, unless a text that loops is decoded once more. The callback must return soon. If it raises, this
                job's future gets the error.

        Returns:
            A future of the transcript, whose status is "error" if this input cannot be transcribed. Cancelling the
            future drops the work in both stages. The future raises DecodeError if the engine fails, and
            ServiceClosedError if the service is closed before the answer is there.

        Raises:
            UnsupportedAudioError: the samples have another type or shape, or are too few.
            ConfigError: the family does not know the language, `answer_prefix` or `draft` is not text, or `speakers` is
                set.
            QueueFullError: `max_waiting` jobs are waiting already.
            ServiceClosedError, DecodeError: the service is closed, or its engine has failed.
        """
        self._model.lock.require_open()
        check_samples(waveform)
        self._model.family.prompt_text(options.request)
        check_text("answer_prefix", answer_prefix)
        check_text("draft", draft)
        if options.speakers is not None:
            raise ConfigError("a service does not say who speaks in a clip; embed() gives the voices of its windows")
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
            self._jobs[index] = _Job(key, options, answer_prefix, is_speech, draft, on_text, future, time.monotonic())
            self._waiting.append(_Waiting(index, waveform, num_frames))
        future.add_done_callback(lambda done: self._cancel(index) if done.cancelled() else None)
        self._wake()
        return future

    def embed(self, waveform: Waveform, windows: Sequence[Bounds]) -> Future[Embeddings]:
        """Speaker embeddings of windows of a waveform, computed beside both stages; see SpeakerQueue.embed."""
        return self._speakers.embed(waveform, windows)

    @property
    def model(self) -> LoadedModel:
        """The model, which nobody else may run until this service is closed."""
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
        """Take no more work, finish what can be finished within `drain_s` seconds, and drop the rest; idempotent.

        The model stays loaded and can be used again.

        Raises:
            ConfigError: this is the service's own thread, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise ConfigError("on_text and callbacks of futures cannot close the service: close it in another thread")
        with self._lock:
            if self._closes_at is None:
                self._closes_at = time.monotonic() + drain_s
        self._wake()
        self._thread.join()
        self._speakers.close()

    def _require_open(self) -> None:
        if self.failed:
            raise DecodeError("the engine of this service has failed; build a new one")
        if self._closes_at is not None:
            raise ServiceClosedError("this service is closed")

    def _cancel(self, index: int) -> None:
        """Called in the thread that cancels a future."""
        with self._lock:
            self._cancelled.add(index)
        self._wake()

    def _wake(self) -> None:
        """Wake the service's thread. A second byte is not sent until it has looked: a system call releases the GIL."""
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(OSError):  # it has ended
                self._waker.send(b"\0")

    def _clear_wake(self) -> None:
        """Called before the thread looks at its jobs again.

        The flag is cleared after the read. If it were cleared first, a byte sent in between would be read while the
        flag stays set, and nobody would send another.
        """
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
            self._is_woken = False

    def _main(self) -> None:
        """The thread: run the loop, and give every future an end, however the loop ends."""
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
        """Give every future an end and release the model, even if one of these steps raises."""
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
        """Repeat: start stage 1 on a batch, wait for news of stage 2, deliver what has finished.

        While a GPU encodes a batch, the answers that stage 2 writes in this thread go on.
        """
        pipeline = self._pipeline
        while not self._is_over():
            self._drop_cancelled()
            due_s = self._due_s()
            batch = self._next_batch() if due_s <= 0 else []
            self._deliver(pipeline.encode(batch) if batch else pipeline.submit_encoded())
            wait_s = min(due_s, POLL_S if pipeline.encoding is None else ENCODING_WAIT_S)
            self._deliver(pipeline.collect(wait_s=wait_s, wake=self._woken.fileno()))
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
        self._deliver(self._pipeline.submit())  # so that clips that are in stage 1 can be dropped as well
        self._pipeline.drop(dropped)

    def _due_s(self) -> float:
        """Seconds until the next batch is to be encoded: 0 for now, infinity while nothing waits or stage 2 is full."""
        with self._lock:
            decoder = self._model.decoder
            if not self._waiting or decoder.num_pending >= decoder.max_pending:
                return math.inf
            _, is_full = self._front()
            oldest = self._jobs[self._waiting[0].index].submitted
            is_urgent = is_full or len(self._jobs) <= FEW_JOBS
        return 0.0 if is_urgent else max(0.0, oldest + self._batch_wait_s - time.monotonic())

    def _front(self) -> tuple[int, bool]:
        """Size of the next batch, taken from the oldest jobs, and whether it is full. The caller holds the lock.

        Batches of more than MAX_CLIPS are no cheaper per clip, hold the GIL longer, and delay the first answer: in a
        burst, the first batches are decoded while later ones are encoded.
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
                draft=job.draft,
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
        """Call on_text for each clip whose partial text has changed."""
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
        """The partial text, or None if no token has come since the last one."""
        token_ids = self._model.decoder.partial_tokens(prompt_id)
        if len(token_ids) == job.num_emitted:
            return None
        job.num_emitted = len(token_ids)  # fewer than before if the clip is being decoded a second time
        # The last token may end in the middle of a character.
        return self._pipeline.text_so_far(clip, token_ids).removesuffix("\N{REPLACEMENT CHARACTER}")


def _end_of(job: _Job, end: Callable[[], None]) -> None:
    """Set a job's result or error, unless its caller has cancelled the future or ended it in some other way."""

    def deliver() -> None:
        if job.future.set_running_or_notify_cancel():
            end()

    alone("deliver", job.key, deliver)
