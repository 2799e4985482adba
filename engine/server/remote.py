"""What a front end has in place of the model and its service: the engine is in another process (front_ends.py)."""

import itertools
import pickle
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from ..arena import Arena
from ..audio.readers import AudioReaders
from ..audio.waveform import Waveform
from ..errors import ASRError, DecodeError, QueueFullError
from ..families.base import ModelFamily
from ..model_lock import ModelLock
from ..run_options import TranscribeOptions
from ..service import OnText
from ..speakers.model import Bounds, Embeddings
from ..text import LLMTokenizer
from ..transcript import Transcript
from .channel import READ_BYTES, Frame, FrameReader, Kind, frame
from .ledger import Ledger
from .metrics import Metrics


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the engine's process tells a front end about its model."""

    family: ModelFamily
    tokenizer: LLMTokenizer
    num_readers: int
    max_waiting: int


class RemoteModel:
    """The parts of a LoadedModel that protocols and live sessions use."""

    def __init__(self, card: ModelCard) -> None:
        self.family = card.family
        self.tokenizer = card.tokenizer
        self.readers = AudioReaders(card.num_readers)
        self.lock = ModelLock()


@dataclass(slots=True, eq=False)
class _Job:
    future: Future[Any]  # of a Transcript, or of Embeddings
    on_text: OnText | None
    place: int  # of its waveform in the arena


class RemoteService:
    """Hands clips to the TranscriptionService of the engine's process; submit() and futures are as there."""

    def __init__(self, engine: socket.socket, card: ModelCard, arena: Arena, ledger: Ledger) -> None:
        """`engine`: the socket to its process. The engine writes the number of waiting clips to the ledger."""
        self.failed = False
        self.metrics = Metrics()
        self.model = RemoteModel(card)
        self._max_waiting = card.max_waiting
        self._engine = engine
        self._arena = arena
        self._ledger = ledger
        self._lock = threading.Lock()  # keeps frames whole: several threads send
        self._jobs: dict[int, _Job] = {}
        self._asked: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._packed = lru_cache(maxsize=256)(partial(pickle.dumps, protocol=5))  # most requests have the same options

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
        """See TranscriptionService.submit, whose errors for this one clip the future raises here.

        Raises:
            DecodeError: the engine has failed.
            QueueFullError: as many clips wait as may. The future raises it if others come between.
        """
        if self.failed:
            raise DecodeError("the engine of this service has failed; build a new one")
        if self.num_waiting >= self._max_waiting:
            raise QueueFullError(f"{self.num_waiting} clips are waiting already; try again later")
        asked = (self._packed(options), key, answer_prefix, is_speech, draft, on_text is not None)
        return self._hand_over(Kind.JOB, waveform, asked, on_text)

    def embed(self, waveform: Waveform, windows: Sequence[Bounds]) -> Future[Embeddings]:
        """See TranscriptionService.embed, whose errors the future raises here. Raises DecodeError, QueueFullError."""
        if self.failed:
            raise DecodeError("the engine of this service has failed; build a new one")
        return self._hand_over(Kind.EMBED, waveform, (list(windows),), None)

    def _hand_over(self, kind: Kind, waveform: Waveform, asked: tuple[Any, ...], on_text: OnText | None) -> Future[Any]:
        job = _Job(Future(), on_text, self._arena.put(waveform))
        number = next(self._numbers)
        self._jobs[number] = job
        self._send(kind, number, (job.place, len(waveform), *asked))
        job.future.add_done_callback(lambda done: self._send(Kind.CANCEL, number) if done.cancelled() else None)
        return job.future

    @property
    def num_waiting(self) -> int:
        """Clips of all front ends that are not encoded yet, as the engine's process has written last."""
        return self._ledger.total("waiting")

    @property
    def num_jobs(self) -> int:
        """Clips of this front end that are not done."""
        return len(self._jobs)

    def metrics_text(self) -> bytes:
        """The metrics of all processes, in Prometheus' text format."""
        text: bytes = self._ask(Kind.SCRAPE, None).result()
        return text

    def say_ready(self) -> None:
        self._send(Kind.READY)

    def listen(self, leave: Callable[[], None]) -> None:
        """Receive in a thread of its own, which calls `leave` when this process is to end."""
        threading.Thread(target=self._listen, args=(leave,), name="engine-channel", daemon=True).start()

    def close(self) -> None:
        self.model.readers.close()

    def num_audio_tokens(self, num_samples: int) -> int:
        """Positions that the audio takes in the LLM. Waits for the engine's process, which answers at once."""
        return int(self._ask(Kind.COUNT, num_samples).result())

    def _ask(self, kind: Kind, content: object) -> Future[Any]:
        future: Future[Any] = Future()
        number = next(self._numbers)
        self._asked[number] = future
        self._send(kind, number, content)
        return future

    def _send(self, kind: Kind, job: int = 0, content: object = None) -> None:
        data = frame(kind, job, content)
        with self._lock:
            self._engine.sendall(data)

    def _listen(self, leave: Callable[[], None]) -> None:
        """Until the engine's process closes the channel, which ends this process as well (worker_process.connect)."""
        reader = FrameReader()
        while data := self._engine.recv(READ_BYTES):
            for each in reader.push(data):
                self._take(each, leave)

    def _take(self, given: Frame, leave: Callable[[], None]) -> None:
        match given.kind:
            case Kind.TEXT:
                job = self._jobs.get(given.job)
                if job is not None and job.on_text is not None and not job.future.done():
                    job.on_text(given.content)
            case Kind.DONE | Kind.ERROR | Kind.CANCELLED:
                self._end(given)
            case Kind.COUNT | Kind.METRICS:
                self._asked.pop(given.job).set_result(given.content)
            case Kind.SCRAPE:
                self._send(Kind.SAMPLES, 0, self.metrics.families())
            case Kind.FAILED:  # the server notices it by itself (process.py)
                self.failed = True
            case Kind.LEAVE:
                leave()

    def _end(self, given: Frame) -> None:
        job = self._jobs.pop(given.job)
        self._arena.free(job.place)
        if given.kind is Kind.CANCELLED or not job.future.set_running_or_notify_cancel():
            return
        content: Transcript | Embeddings | ASRError = given.content
        if isinstance(content, ASRError):
            job.future.set_exception(content)
        else:
            job.future.set_result(content)
