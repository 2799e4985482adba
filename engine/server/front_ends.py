"""Front ends: processes that parse requests, read audio and write answers, while this one runs the engine.

    clients -> the same listening sockets -> front_end.py, several processes -> channel.py -> TranscriptionService here

The engine's process reads frames, hands clips to its service, and sends transcripts back; it parses no request and
decodes no audio. Limits hold for all front ends together (ledger.py). A connection stays with the front end that has
accepted it. A front end that dies takes its own connections with it, and another takes its place. If the engine fails,
all end. SIGTERM, SIGINT and SIGHUP make every front end shut down as a server without front ends does (process.py).
"""

import ctypes
import logging
import os
import pickle
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from ..arena import Arena
from ..cores import usable_cores
from ..errors import ASRError, ConfigError, InternalError
from ..worker_process import Child, send, start_child
from .channel import READ_BYTES, Frame, FrameReader, Kind, Outbox, frame
from .connections import MOST_FILES, file_limit, raise_file_limit
from .ledger import SharedLedger
from .metrics import Metrics, counters_of, merged, merged_text
from .operation import OperationServer
from .process import ENGINE_FAILED, FAILED_GRACE_S, TICK_S, Address, ended_by_hang_up, log_addresses
from .settings import ServerSettings

if TYPE_CHECKING:  # front ends are started before torch is imported, which takes as long as it takes them
    from ..transcriber import Transcriber
    from .remote import ModelCard
    from .service import LocalService

RESTART_S = 1.0  # from the death of a front end to the start of the next
AUTO_FRONT_ENDS, AUTO_CORES = 4, 8  # beside a GPU, on a machine with at least so many cores
SCRAPE_S = 2.0  # longest wait for the metrics of a front end
END_S = 10.0  # that a front end may take to end, beyond its drain

log = logging.getLogger("twostage_asr.server")

_MODULE = f"{__package__}.front_end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a front end needs to know before there is a model."""

    settings: ServerSettings
    address: Address
    sockets: tuple[int, ...] = ()  # descriptors of the bound sockets
    vad: str = "silero"
    chunk_ms: float
    offline: bool = True
    has_docs: bool = True
    wyoming: str | None = None  # of the first front end
    log_level: str = "info"
    num_front_ends: int
    number: int = 0  # of this one, from 0 on
    ledger: int = -1  # descriptors of memory
    arena: int = -1


@dataclass(slots=True, eq=False)
class _FrontEnd:
    """One running front end."""

    number: int
    child: Child
    arena: Arena
    outbox: Outbox
    reader: FrameReader = field(default_factory=FrameReader)
    jobs: dict[int, Future[Any]] = field(default_factory=dict)
    samples: list[Any] | None = None  # the metrics of the last scrape; None while they are awaited
    is_ready: bool = False


def number_of_front_ends(asked: int | None, device: str) -> int:
    """What was asked for; else as many as pay, because a CPU that computes both stages has no core to spare.

    `device` is named as in EngineConfig.
    """
    if asked is not None:
        return asked
    on_gpu = _sees_gpu() if device == "auto" else device.startswith("cuda")
    return AUTO_FRONT_ENDS if on_gpu and usable_cores() >= AUTO_CORES else 0


def _sees_gpu() -> bool:
    """Whether the driver has an NVIDIA GPU for this process. torch would take seconds to be imported and asked."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return not driver.cuInit(0) and not driver.cuDeviceGetCount(ctypes.byref(count)) and count.value > 0


class FrontEnds:
    """The front ends of one server, and the loop of the engine's process."""

    def __init__(self, setup: Setup, sockets: Sequence[socket.socket]) -> None:
        """Start them. They import what they need while this process loads the model."""
        raise_file_limit()
        self.metrics = Metrics()
        self.service: LocalService | None = None
        names = setup.settings.max_requests + setup.settings.max_sessions + setup.settings.max_connections
        ledger = SharedLedger.create(setup.num_front_ends + 1, names + min(file_limit(), MOST_FILES) // 1024)
        self._setup = replace(setup, sockets=tuple(each.fileno() for each in sockets), ledger=ledger)
        self._sockets = sockets
        self._ledger = SharedLedger(ledger, setup.num_front_ends + 1, setup.num_front_ends)
        self._card: ModelCard | None = None
        self._options = lru_cache(maxsize=1024)(pickle.loads)
        self._selector = selectors.DefaultSelector()
        self._restarts: dict[int, float] = {}  # time.monotonic() at which a front end is due again
        self._ended: list[Any] = []  # metrics of front ends that have died
        self._scraped = threading.Condition()
        self._num_signals, self._num_told = 0, 0
        self._is_failure_told = False
        self._is_serving = False
        self._ends_at: float | None = None  # time.monotonic() at which those that are left are killed
        self._fronts = {number: self._start(number) for number in range(setup.num_front_ends)}

    def serve(self, model: "Transcriber", operation: OperationServer | None = None) -> int:
        """Serve until a signal or the engine's death; returns the exit code.

        Raises:
            ConfigError: a front end has ended before it could serve.
        """
        from .remote import ModelCard
        from .service import LocalService

        max_waiting = self._setup.settings.max_waiting
        service = LocalService(model, self.metrics, max_waiting=max_waiting)
        num_readers = max(2, usable_cores() // self._setup.num_front_ends)
        card = ModelCard(model.family, model.tokenizer, num_readers, max_waiting)
        self.service, self._card = service, card
        self.metrics.watch("twostage_front_ends", "Front ends that answer", lambda: self.num_ready)
        is_main = threading.current_thread() is threading.main_thread()  # others cannot handle signals
        ends = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        previous = {each: signal.signal(each, self.leave) for each in ends}
        try:
            for front in self._fronts.values():
                send(front.child.socket, card)
            self._loop(lambda: self.num_ready < self._setup.num_front_ends)
            if not self._num_signals and not service.failed:
                log_addresses(self._sockets, is_tls=self._setup.address.tls_certificate is not None)
                self._is_serving = True
            if operation is not None:
                operation.watching(self).run_thread()
            with ended_by_hang_up():
                self._loop(lambda: bool(self._fronts or self._restarts))
        finally:
            self.close()
            service.close()
            if operation is not None:
                operation.close()
            for each, handler in previous.items():
                signal.signal(each, handler)
        return ENGINE_FAILED if service.failed else 0

    def close(self) -> None:
        """End all front ends at once; idempotent. One that is still importing would not notice that we hang up."""
        for front in list(self._fronts.values()):
            if not front.is_ready:
                front.child.process.kill()
            front.child.close()
        self._fronts.clear()

    @property
    def num_ready(self) -> int:
        """Front ends that answer."""
        return len(self._ready)

    @property
    def readiness(self) -> str:
        """ "ok", or why requests should go elsewhere."""
        if self.service is None or self.service.failed:
            return "engine failed"
        if self._num_signals:
            return "shutting down"
        settings = self._setup.settings
        is_full = (
            self.service.num_waiting >= settings.max_waiting or self._ledger.total("requests") >= settings.max_requests
        )
        return "ok" if self._ready and not is_full else "saturated"

    def metrics_text(self) -> bytes:
        """The metrics of all processes together. Waits for the front ends' answers, at most SCRAPE_S."""
        fronts = self._ready
        for front in fronts:
            front.samples = None
            front.outbox.send(frame(Kind.SCRAPE))
        with self._scraped:
            self._scraped.wait_for(lambda: all(front.samples is not None for front in fronts), SCRAPE_S)
        return merged_text([self.metrics.families(), self._ended, *(front.samples or [] for front in fronts)])

    @property
    def _ready(self) -> list[_FrontEnd]:
        return [front for front in list(self._fronts.values()) if front.is_ready]

    def _start(self, number: int) -> _FrontEnd:
        file = Arena.create()
        setup = replace(self._setup, number=number, arena=file)
        child = start_child(_MODULE, pass_fds=(*setup.sockets, setup.ledger, file))
        send(child.socket, setup)
        if self._card is not None:
            send(child.socket, self._card)
        front = _FrontEnd(number, child, Arena(file), Outbox(child.socket))
        os.close(file)
        self._selector.register(child.socket, selectors.EVENT_READ, front)
        return front

    def leave(self, *_: object) -> None:
        """What a signal does: shut down; the second time at once."""
        self._num_signals += 1

    def _loop(self, goes_on: Callable[[], bool]) -> None:
        """Answer the front ends, as long as `goes_on` and there are any."""
        while goes_on() and (self._fronts or self._restarts):
            for key, _ in self._selector.select(TICK_S):
                self._read(key.data)
            self._tick(time.monotonic())

    def _tick(self, now: float) -> None:
        assert self.service is not None
        self._ledger.set("waiting", self.service.num_waiting)
        if now - self.metrics.last_tick >= TICK_S:
            self.metrics.tick(TICK_S)
            for front in self._fronts.values():
                front.outbox.flush()
        if self.service.failed and not self._is_failure_told:
            self._is_failure_told = True
            log.error("the engine has failed; the process ends with exit code %d", ENGINE_FAILED)
            self._leave(Kind.FAILED, now + FAILED_GRACE_S + END_S)
        if self._num_told < min(self._num_signals, 2):
            self._num_told += 1
            settings = self._setup.settings
            drain_s = settings.drain_delay_s + settings.drain_s if self._num_told == 1 else 0.0
            self._leave(Kind.LEAVE, now + drain_s + END_S)
        for number in [number for number, due in self._restarts.items() if due <= now]:
            del self._restarts[number]
            self._fronts[number] = self._start(number)
        if self._ends_at is not None and now >= self._ends_at:
            self.close()

    def _leave(self, kind: Kind, ends_at: float) -> None:
        """Tell all front ends to end. Those that do not serve yet have nobody to answer, and are closed."""
        self._ends_at = ends_at
        self._restarts.clear()
        for front in list(self._fronts.values()):
            if front.is_ready:
                front.outbox.send(frame(kind))
            else:
                self._bury(front)

    def _read(self, front: _FrontEnd) -> None:
        try:
            data = front.child.socket.recv(READ_BYTES)
        except OSError:
            data = b""
        for each in front.reader.push(data):
            self._take(front, each)
        if not data:
            self._lose(front)

    def _take(self, front: _FrontEnd, given: Frame) -> None:
        match given.kind:
            case Kind.JOB | Kind.EMBED:
                self._submit(front, given)
            case Kind.CANCEL:
                if (future := front.jobs.get(given.job)) is not None:
                    future.cancel()
            case Kind.COUNT:
                assert self.service is not None
                count = self.service.num_audio_tokens(given.content)
                front.outbox.send(frame(Kind.COUNT, given.job, count))
            case Kind.SCRAPE:  # waits for this loop to read the others' answers
                answer = partial(self._answer_scrape, front, given.job)
                threading.Thread(target=answer, name="scrape", daemon=True).start()
            case Kind.SAMPLES:
                with self._scraped:
                    front.samples = given.content
                    self._scraped.notify_all()
            case Kind.READY:
                front.is_ready = True

    def _answer_scrape(self, front: _FrontEnd, job: int) -> None:
        front.outbox.send(frame(Kind.METRICS, job, self.metrics_text()))

    def _submit(self, front: _FrontEnd, given: Frame) -> None:
        number = given.job
        future: Future[Any]
        try:
            future = self._embed(front, given) if given.kind is Kind.EMBED else self._transcribe(front, given)
        except ASRError as error:
            front.outbox.send(frame(Kind.ERROR, number, error))
            return
        front.jobs[number] = future
        future.add_done_callback(partial(_send_end, front, number))

    def _embed(self, front: _FrontEnd, given: Frame) -> Future[Any]:
        assert self.service is not None
        place, num_samples, windows = given.content
        return self.service.embed(front.arena.waveform(place, num_samples), windows)

    def _transcribe(self, front: _FrontEnd, given: Frame) -> Future[Any]:
        assert self.service is not None
        place, num_samples, packed, key, answer_prefix, is_speech, draft, is_followed = given.content
        number, outbox = given.job, front.outbox
        return self.service.submit(
            front.arena.waveform(place, num_samples),
            self._options(packed),
            key=key,
            answer_prefix=answer_prefix,
            is_speech=is_speech,
            draft=draft,
            on_text=(lambda text: outbox.send(frame(Kind.TEXT, number, text))) if is_followed else None,
        )

    def _lose(self, front: _FrontEnd) -> None:
        """A front end has ended: drop its work, and start another unless the server ends."""
        self._bury(front)
        if self._ends_at is not None:
            return
        status = front.child.process.returncode
        if not self._is_serving:
            raise ConfigError(f"a front end could not start, exit status {status}; its error is above")
        log.error("a front end has ended, exit status %s; another one takes its place", status)
        self._restarts[front.number] = time.monotonic() + RESTART_S

    def _bury(self, front: _FrontEnd) -> None:
        self._selector.unregister(front.child.socket)
        del self._fronts[front.number]
        for future in list(front.jobs.values()):
            future.cancel()
        front.child.close()
        self._ledger.clear_row(front.number)
        self._ended = merged([self._ended, counters_of(front.samples or [])])


def _send_end(front: _FrontEnd, number: int, future: Future[Any]) -> None:
    """Send the last frame of a job, in the thread that ends its future."""
    front.jobs.pop(number, None)
    if future.cancelled():
        front.outbox.send(frame(Kind.CANCELLED, number))
    elif (error := future.exception()) is None:
        front.outbox.send(frame(Kind.DONE, number, future.result()))
    else:
        known = error if isinstance(error, ASRError) else InternalError(f"{type(error).__name__}: {error}")
        front.outbox.send(frame(Kind.ERROR, number, known))
