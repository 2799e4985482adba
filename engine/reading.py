"""Inputs -> waveforms in the same order, read a little ahead of whoever takes them.

Where an input is read:
- Samples that are a waveform already stay as they are.
- Other samples, and URLs of any kind, are read in threads here.
- Files (paths and bytes) are read in threads here too until they add up to PROCESS_BYTES, and from then on in processes
  (audio_worker.py), one thread waiting for each. A process takes 0.2 s of a core to start, but FFmpeg's small frames
  keep Python's lock busy: on 16 cores, 16 threads read MP3 (48 kHz stereo) at 540 times real time, 16 processes at
  10,500.

Waveforms come back over sockets, straight into the array that is handed out: 0.2 ms for a clip of 10 s, against 0.5 ms
through a memory file (memfd), most of it page faults; for an hour of audio, 0.2 s either way.
"""

import functools
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .audio import SAMPLE_RATE, AudioLimits, Waveform, source_name
from .child import Child, receive, send, start_child
from .errors import AudioError, ConfigError
from .inputs import AudioInput, load

PROCESS_BYTES = 8 << 20  # MP3s of this size take half a second of a core to decode
READ_AHEAD = 1024  # inputs
READ_AHEAD_BYTES = 256 << 20  # of waveforms (over an hour) and of sources held in memory

_WORKER = f"{__package__}.audio_worker"


class AudioReaders:
    """Threads and processes that read audio: started when first needed, kept until close()."""

    def __init__(self, num_processes: int) -> None:
        if num_processes < 1:
            raise ConfigError(f"num_processes must be at least 1, got {num_processes}")
        self._num_threads = num_processes
        self._threads = ThreadPoolExecutor(num_processes, thread_name_prefix="read-audio")
        self._processes = _Processes()
        self._lock = threading.Lock()
        self._file_bytes = 0

    def read(
        self, items: Iterable[AudioInput], *, limits: AudioLimits, allow_urls: bool
    ) -> Generator[tuple[AudioInput, Waveform | AudioError], None, None]:
        """Yield each input with its waveform, (N,) float32, mono, 16 kHz, or what is wrong with it.

        `items` is iterated in the caller's thread, READ_AHEAD inputs ahead. While READ_AHEAD_BYTES wait to be taken, no
        more is pulled or begun. Closing the iterator drops what is not begun. Several may be open at once.
        """
        read_one = functools.partial(self._read_one, limits=limits, allow_urls=allow_urls)
        ahead = _ReadAhead(read_one, self._threads, self._num_threads)
        try:
            for item in items:
                ahead.add(item)
                while ahead.is_full:
                    yield ahead.take()
            while not ahead.is_empty:
                yield ahead.take()
        finally:
            ahead.cancel()

    def submit(
        self, item: AudioInput, *, limits: AudioLimits, allow_urls: bool | Collection[str]
    ) -> Future[Waveform | AudioError]:
        """Read one input in the background; see `load` for `allow_urls`."""
        return self._threads.submit(self._read_one, item, limits=limits, allow_urls=allow_urls)

    def close(self) -> None:
        """End the processes at once, whatever they are doing; the threads end with what they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._processes.close()

    def _read_one(
        self, item: AudioInput, *, limits: AudioLimits, allow_urls: bool | Collection[str]
    ) -> Waveform | AudioError:
        try:
            if isinstance(item.source, Path | bytes) and self._pays_for_a_process(item.source):
                return self._processes.decode(item.source, limits)
            return load(item, limits=limits, allow_urls=allow_urls)
        except AudioError as error:
            return error

    def _pays_for_a_process(self, source: Path | bytes) -> bool:
        try:
            num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
        except (OSError, ValueError):  # no such file, or no possible name: load() says so
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

    def decode(self, source: Path | bytes, limits: AudioLimits) -> Waveform | AudioError:
        """decode_audio() in a process; a process that dies costs this source only."""
        child = self._take()
        try:
            send(child.socket, (source, limits))
            audio: Waveform | AudioError = receive(child.socket)
        except (EOFError, OSError):
            child.close()
            self._put_back(child)
            status = child.process.returncode
            return AudioError(f"{source_name(source)}: the process that decoded it died with exit status {status}")
        self._put_back(child)
        return audio

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for child in self._busy:
                child.process.terminate()  # whoever waits for it puts it back
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def _take(self) -> Child:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("these readers are closed")
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
    """One input between its being pulled and taken."""

    item: AudioInput
    num_bytes: int  # that it holds
    future: Future[Waveform | AudioError] | None = None


class _ReadAhead:
    """The inputs of one read() that were pulled and not yet taken, oldest first.

    Work is begun in order, by the consumer and by threads that have finished some, so that no thread ever waits for
    the consumer. The oldest input is always begun.
    """

    def __init__(
        self, read_one: Callable[[AudioInput], Waveform | AudioError], threads: ThreadPoolExecutor, num_threads: int
    ) -> None:
        self._read_one = read_one
        self._threads = threads
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._entries: deque[_Entry] = deque()
        self._waiting: deque[_Entry] = deque()  # those not begun
        self._num_running = 0
        self._num_bytes = 0

    @property
    def is_empty(self) -> bool:
        return not self._entries

    @property
    def is_full(self) -> bool:
        return bool(self._entries) and (len(self._entries) >= READ_AHEAD or self._num_bytes >= READ_AHEAD_BYTES)

    def add(self, item: AudioInput) -> None:
        entry = _Entry(item, _num_bytes(item.source))
        self._entries.append(entry)
        with self._lock:
            self._num_bytes += entry.num_bytes
            if not _is_waveform(item):
                self._waiting.append(entry)
            self._begin()

    def take(self) -> tuple[AudioInput, Waveform | AudioError]:
        """The oldest input and what became of it."""
        entry = self._entries.popleft()
        audio = self._read_one(entry.item) if entry.future is None else entry.future.result()
        with self._lock:
            self._num_bytes -= entry.num_bytes
            self._begin()
        return entry.item, audio

    def cancel(self) -> None:
        with self._lock:
            self._waiting.clear()
        for entry in self._entries:
            if entry.future is not None:
                entry.future.cancel()

    def _begin(self) -> None:
        """Called with the lock held."""
        while self._waiting and self._num_running < self._num_threads:
            if self._num_bytes >= READ_AHEAD_BYTES and self._waiting[0] is not self._entries[0]:
                return
            entry = self._waiting.popleft()
            entry.future = self._threads.submit(self._run, entry)
            self._num_running += 1

    def _run(self, entry: _Entry) -> Waveform | AudioError:
        audio = None
        try:
            audio = self._read_one(entry.item)
        finally:
            with self._lock:
                self._num_running -= 1
                if isinstance(audio, np.ndarray):
                    entry.num_bytes += audio.nbytes
                    self._num_bytes += audio.nbytes
                self._begin()
        return audio


def _is_waveform(item: AudioInput) -> bool:
    source, rate = item.source, item.sample_rate
    is_mono = isinstance(source, np.ndarray) and source.ndim == 1 and source.dtype == np.float32
    return is_mono and (rate is None or (isinstance(rate, int) and rate == SAMPLE_RATE))


def _num_bytes(source: object) -> int:
    """Of memory that a source holds."""
    return len(source) if isinstance(source, bytes | str) else int(getattr(source, "nbytes", 0))
