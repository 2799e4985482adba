"""Inputs -> waveforms in the same order, read a little ahead of whoever takes them; long recordings in pieces.

Where an input is read:
- Samples that are a waveform already, and are not to be cut, stay as they are.
- Other samples, and URLs of any kind, are read in threads here.
- The content of a short WAV that needs no decoding is read in threads here too, or at once where it is the only input:
  10 s take 0.06 ms, and 0.6 ms by way of a process.
- Files (paths and bytes) are read in threads here too until they add up to PROCESS_BYTES, and from then on in processes
  (worker.py), one thread waiting for each. A process takes 0.2 s of a core to start, but FFmpeg's small frames
  keep Python's lock busy: on 16 cores, 16 threads read MP3 (48 kHz stereo) at 540 times real time, 16 processes at
  10,500.

A recording that is cut is cut where it is read. It keeps its process until its end; the pieces of several such
recordings come in turn, so that all their processes have work. A piece is read when the one before it is taken: memory
stays bounded, and no thread ever waits for the consumer. The order of everything depends on the inputs alone.

Waveforms come back over sockets, straight into the array that is handed out: 0.2 ms for a clip of 10 s, against 0.5 ms
through a memory file (memfd), most of it page faults; for an hour of audio, 0.2 s either way.
"""

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import ASRError, AudioError, ConfigError
from ..isolation import alone
from ..vad.splitting import Cutting, Piece, cut_audio
from ..worker_process import Child, receive, send, start_child
from .decode import SAMPLE_RATE, AudioLimits, needs_no_decoding, source_name
from .inputs import AudioInput
from .loading import load_blocks
from .notes import Notes
from .turns import Stop, Turns

PROCESS_BYTES = 8 << 20  # MP3s of this size take half a second of a core to decode
AT_ONCE_S = 40.0  # of audio that needs no decoding are read in 0.3 ms
READ_AHEAD = 1024  # inputs
READ_AHEAD_BYTES = 256 << 20  # of waveforms (over an hour) and of sources held in memory

MAX_IN_TURN = 16  # recordings whose pieces come in turn; each holds about three, 12 MB

Audio: TypeAlias = Piece | AudioError
# What is read of one input: Pieces up to a last one, mostly the only one, or up to an error.
Reading: TypeAlias = Generator[Audio, None, None]

_WORKER = f"{__package__}.worker"


class AudioReaders:
    """Threads and processes that read audio: started when first needed, kept until close()."""

    def __init__(self, num_processes: int) -> None:
        if num_processes < 1:
            raise ConfigError(f"num_processes must be at least 1, got {num_processes}")
        self._num_threads = num_processes
        self._threads = ThreadPoolExecutor(num_processes, thread_name_prefix="read-audio")
        self._turns: Turns[Audio] = Turns(self._threads, num_processes)
        self._processes = _Processes()
        self._lock = threading.Lock()
        self._file_bytes = 0

    def read(
        self,
        items: Iterable[AudioInput],
        *,
        limits: AudioLimits,
        allow_urls: bool,
        cutting: Cutting | None = None,
        wait_s: float | None = None,
    ) -> Generator[tuple[int, AudioInput, Audio] | None, None, None]:
        """Yield each input's place and all of it as one Piece, or what is wrong with it.

        With `cutting`, a recording too long for it comes as several Pieces, up to a last one or an error, with other
        inputs between them; everything else stays in order.

        `items` is iterated in the caller's thread, READ_AHEAD inputs ahead. While READ_AHEAD_BYTES wait to be taken, no
        more is pulled or begun. Closing the iterator drops what is not begun. Several may be open at once.

        With `wait_s`, None comes whenever so long has passed and what comes next is not read yet.
        """
        read_one = partial(self._read_one, limits=limits, allow_urls=allow_urls, cutting=cutting)
        in_turn = 1 if cutting is None else min(self._num_threads, MAX_IN_TURN)
        ahead = _ReadAhead(read_one, self._threads, num_threads=self._num_threads, in_turn=in_turn, cutting=cutting)
        try:
            for item in items:
                ahead.add(item)
                while ahead.is_full:
                    yield ahead.take(wait_s)
            while not ahead.is_empty:
                yield ahead.take(wait_s)
        finally:
            ahead.cancel()

    def submit(
        self,
        item: AudioInput,
        *,
        limits: AudioLimits,
        allow_urls: bool | Collection[str],
        cutting: Cutting | None,
        client: Hashable = None,
    ) -> Future[list[Audio]]:
        """Read all of one input: Pieces up to a last one, or up to an error.

        It is done when this returns if the input is short and needs no decoding, and in the background otherwise.
        Cancelling the future ends the reading: at once in a process, at the next block of samples in a thread here.

        Inputs are begun in the order in which they come, but for those of different clients: clients have their turns,
        and one that is named never has all readers if there are several, so that another need not wait for it.

        Args:
            item, limits, allow_urls, cutting: see `read`.
            client: whom this is read for, such as the name of a key or an address. None counts as no client.
        """
        stop = Stop()
        reading = self._read_one(item, limits=limits, allow_urls=allow_urls, cutting=cutting, stop=stop)
        if _is_read_at_once(item.source, cutting):
            future: Future[list[Audio]] = Future()
            future.set_result(list(reading))
            return future
        future = self._turns.add(client, reading)
        future.add_done_callback(lambda done: stop.set() if done.cancelled() else None)
        return future

    def close(self) -> None:
        """End the processes at once, whatever they are doing; the threads end with what they are doing."""
        self._turns.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._processes.close()

    def _read_one(
        self,
        item: AudioInput,
        *,
        limits: AudioLimits,
        allow_urls: bool | Collection[str],
        cutting: Cutting | None,
        stop: Stop | None = None,
    ) -> Reading:
        """Whatever is raised on behalf of an input is its error."""
        stop = stop or Stop()
        with contextlib.closing(
            self._read(item, stop, limits=limits, allow_urls=allow_urls, cutting=cutting)
        ) as reading:
            step = partial(alone, "read", item.key, partial(next, reading, None), recover=self._processes.require_open)
            while (audio := step()) is not None:
                if isinstance(audio, ASRError):
                    yield audio if isinstance(audio, AudioError) else AudioError(str(audio))
                    return
                yield audio

    def _read(
        self,
        item: AudioInput,
        stop: Stop,
        *,
        limits: AudioLimits,
        allow_urls: bool | Collection[str],
        cutting: Cutting | None,
    ) -> Reading:
        if isinstance(item.source, Path | bytes) and self._pays_for_a_process(item.source, cutting):
            options = item.decoding | {"limits": limits, "name": item.name or source_name(item.source)}
            yield from self._processes.decode(item.source, options, cutting, stop)
        else:
            notes = Notes()
            blocks = load_blocks(item, limits=limits, allow_urls=allow_urls, notes=notes)
            yield from cut_audio(stop.before_each(blocks), cutting, notes)

    def _pays_for_a_process(self, source: Path | bytes, cutting: Cutting | None) -> bool:
        if _is_read_at_once(source, cutting):
            return False
        try:
            num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
        except (OSError, ValueError):  # no such file, or no possible name: load_blocks() says so
            return False
        with self._lock:
            self._file_bytes += num_bytes
            return self._file_bytes > PROCESS_BYTES


class _Processes:
    """As many as are used at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._is_closed = False

    def decode(self, source: Path | bytes, options: dict[str, Any], cutting: Cutting | None, stop: Stop) -> Reading:
        """What a process makes of a source; a process that dies costs this source only, and so does a reader that goes.

        Nothing may be sent to a process before it has given its last answer: it would wait with it. `options` are those
        of decode_blocks.
        """
        child = self._take()
        is_over = False
        try:
            stop.watch(child)
            send(child.socket, (source, options, cutting))
            while not is_over:
                audio: Audio = receive(child.socket)
                is_over = _is_last(audio)
                if is_over:
                    stop.watch(None)
                    self._put_back(child)
                yield audio
        except (EOFError, OSError):
            is_over = True
            child.close()
            self._put_back(child)
            status = child.process.returncode
            yield AudioError(f"{options['name']}: the process that decoded it died with exit status {status}")
        finally:
            if not is_over:  # nobody wants the rest
                child.close()
                self._put_back(child)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for child in self._busy:
                child.process.terminate()  # whoever waits for it puts it back
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def require_open(self) -> None:
        """Raises RuntimeError after close()."""
        if self._is_closed:
            raise RuntimeError("these readers are closed")

    def _take(self) -> Child:
        with self._lock:
            self.require_open()
            while self._idle:
                child = self._idle.pop()
                if child.process.poll() is None:
                    break
                child.close()
            else:
                child = start_child(_WORKER)
            self._busy.add(child)
            return child

    def _put_back(self, child: Child) -> None:
        with self._lock:
            self._busy.remove(child)
            if child.process.returncode is None and not self._is_closed:
                self._idle.append(child)
                return
        child.close()


@dataclass(slots=True, eq=False)
class _Entry:
    """One input between its being pulled and the last of it being taken."""

    index: int
    item: AudioInput
    num_bytes: int  # that it holds
    reading: Reading
    future: Future[Audio] | None = None  # the next thing that is read of it; None before it is begun


class _ReadAhead:
    """The inputs of one read() that were pulled and not yet taken.

    Work is begun in order, by the consumer and by threads that have finished some, so that no thread ever waits for
    the consumer. An input that is cut counts as running until its last piece is taken; it has its turn when as many
    others as `in_turn` says have had theirs. The input whose turn it is is always begun: those before it in the list
    are never more than there are threads.
    """

    def __init__(
        self,
        read_one: Callable[[AudioInput], Reading],
        threads: ThreadPoolExecutor,
        *,
        num_threads: int,
        in_turn: int,
        cutting: Cutting | None,
    ) -> None:
        self._read_one = read_one
        self._threads = threads
        self._num_threads = num_threads
        self._in_turn = in_turn
        self._whole_s = math.inf if cutting is None else cutting.whole_s
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque()  # in the order of their turns
        self._waiting: deque[_Entry] = deque()  # those not begun
        self._num_pulled = 0
        self._num_running = 0
        self._num_bytes = 0
        self._is_cancelled = False

    @property
    def is_empty(self) -> bool:
        return not self._entries

    @property
    def is_full(self) -> bool:
        """Whether something must be taken. Those in turn must be known first, or the order would depend on time."""
        if len(self._entries) < self._in_turn:
            return False
        return len(self._entries) >= READ_AHEAD or self._num_bytes >= READ_AHEAD_BYTES

    def add(self, item: AudioInput) -> None:
        entry = _Entry(self._num_pulled, item, _num_bytes(item.source), self._read_one(item))
        self._num_pulled += 1
        self._entries.append(entry)
        with self._lock:
            self._num_bytes += entry.num_bytes
            if not _is_waveform(item, self._whole_s):
                self._waiting.append(entry)
            self._begin()

    def take(self, wait_s: float | None) -> tuple[int, AudioInput, Audio] | None:
        """The next thing that was read of the input whose turn it is; None if that takes longer."""
        entry = self._entries[0]
        if entry.future is not None and not entry.future.done() and not wait([entry.future], wait_s).done:
            return None
        self._entries.popleft()
        audio = next(entry.reading) if entry.future is None else entry.future.result()
        with self._lock:
            if _is_last(audio):
                self._num_bytes -= entry.num_bytes
            else:
                entry.future = self._threads.submit(self._run, entry)
                self._entries.insert(self._in_turn - 1, entry)
            self._begin()
        return entry.index, entry.item, audio

    def cancel(self) -> None:
        """Drop what is not begun, and end what is."""
        with self._lock:
            self._is_cancelled = True
            self._waiting.clear()
        for entry in self._entries:
            if entry.future is None or entry.future.cancel() or entry.future.done():
                entry.reading.close()

    def _begin(self) -> None:
        """Called with the lock held."""
        while self._waiting and self._num_running < self._num_threads:
            if self._num_bytes >= READ_AHEAD_BYTES and self._waiting[0] is not self._entries[0]:
                return
            entry = self._waiting.popleft()
            entry.future = self._threads.submit(self._run, entry)
            self._num_running += 1

    def _run(self, entry: _Entry) -> Audio:
        audio: Audio | None = None
        try:
            audio = next(entry.reading)
        finally:
            with self._lock:
                if audio is None or _is_last(audio):
                    self._num_running -= 1
                if isinstance(audio, Piece) and audio.is_whole:
                    num_bytes = sum(cut.waveform.nbytes for cut in audio.cuts)
                    entry.num_bytes += num_bytes
                    self._num_bytes += num_bytes
                self._begin()
                is_cancelled = self._is_cancelled
            if is_cancelled:
                entry.reading.close()
        return audio


def _is_read_at_once(source: object, cutting: Cutting | None) -> bool:
    most_s = AT_ONCE_S if cutting is None else min(AT_ONCE_S, cutting.whole_s)
    return isinstance(source, bytes) and needs_no_decoding(source, most_s)


def _is_last(audio: Audio) -> bool:
    return audio.is_last if isinstance(audio, Piece) else True


def _is_waveform(item: AudioInput, whole_s: float) -> bool:
    """Whether the samples are what they shall become."""
    source, rate = item.source, item.sample_rate
    is_mono = isinstance(source, np.ndarray) and source.ndim == 1 and source.dtype == np.float32
    is_ready = is_mono and (rate is None or (isinstance(rate, int) and rate == SAMPLE_RATE))
    return is_ready and len(source) <= whole_s * SAMPLE_RATE  # type: ignore[arg-type]


def _num_bytes(source: object) -> int:
    """Of memory that a source holds."""
    return len(source) if isinstance(source, bytes | str) else int(getattr(source, "nbytes", 0))
