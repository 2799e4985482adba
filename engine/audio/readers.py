"""Inputs -> waveforms in the same order, read ahead of the consumer; long recordings come as several Pieces.

Where an input is read:
- Samples that are a waveform already, and are not to be cut, are passed on unchanged.
- Other samples, and URLs, are read in threads of this process.
- A short WAV in memory that needs no decoding is read in a thread by `read`, and in the caller's thread by `submit`.
- Other files (paths and bytes) are read in threads until they add up to PROCESS_BYTES, and after that in worker
  processes (worker.py), because FFmpeg's small frames keep the GIL busy. Starting a process takes 0.2 s of a core.

A long recording is cut where it is read, and occupies its process until its end. The pieces of several such recordings
are interleaved, so that all their processes have work. A piece is read once the one before it has been taken, so memory
stays bounded and no thread waits for the consumer. The order depends on the inputs alone, not on timing. Waveforms
return over sockets, directly into the array that is handed out: 0.2 ms for 10 s of audio.
"""

import contextlib
import threading
from collections.abc import Collection, Generator, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ASRError, AudioError, ConfigError
from ..isolation import alone
from ..vad.splitting import Cutting, cut_audio
from ..worker_process import Child, receive, send, start_child
from .decode import AudioLimits, needs_no_decoding, source_name
from .inputs import AudioInput
from .loading import load_blocks
from .notes import Notes
from .read_ahead import Audio, ReadAhead, Reading, is_last
from .turns import Stop, Turns

PROCESS_BYTES = 8 << 20  # MP3s of this total size take half a second of a core to decode
AT_ONCE_S = 40.0  # this much audio that needs no decoding is read in 0.3 ms
MAX_IN_TURN = 16  # recordings whose pieces are interleaved; each holds about three pieces, 12 MB

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
        items: Iterable[AudioInput | None],
        *,
        limits: AudioLimits,
        allow_urls: bool,
        cutting: Cutting | None = None,
        wait_s: float | None = None,
    ) -> Generator[tuple[int, AudioInput, Audio] | None, None, None]:
        """Yield (index, input, audio) for each input, where audio is one Piece or the error that occurred.

        `items` is iterated in the caller's thread, ahead of what is taken within the limits of read_ahead.py. Closing
        the iterator drops the inputs that have not begun. Several iterators may be open at once.

        Args:
            items: the inputs. None in place of one says that none has come yet: all outputs that are ready are
                yielded, and then None.
            limits: see AudioLimits.
            allow_urls: see `load`.
            cutting: a recording longer than `cutting.whole_s` comes as several Pieces, up to the last one or an error.
                Other inputs may come between them; everything else keeps its order.
            wait_s: if the next output is not ready after `wait_s` seconds, yield None. None: wait until it is ready.
        """
        read_one = partial(self._read_one, limits=limits, allow_urls=allow_urls, cutting=cutting)
        in_turn = 1 if cutting is None else min(self._num_threads, MAX_IN_TURN)
        ahead = ReadAhead(read_one, self._threads, num_threads=self._num_threads, in_turn=in_turn, cutting=cutting)
        try:
            for item in items:
                if item is None:
                    while taken := None if ahead.is_empty else ahead.take(0):
                        yield taken
                    yield None
                    continue
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
        """Read all of one input: Pieces up to the last one, or up to an error.

        A short input that needs no decoding is read before this returns, any other in the background. Cancelling the
        future ends the reading: at once in a worker process, at the next block of samples in a thread.

        Clients are served round robin, and the inputs of one client in the order in which they come. A named client
        never occupies all readers if there are several, so that another client need not wait for it.

        Args:
            item, limits, allow_urls, cutting: see `read`.
            client: for whom this is read, such as the name of an API key or an address. None has no such bound.
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
        """Terminate the worker processes at once. Threads end after their current task."""
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
        """Read one input; any error raised on its behalf becomes its output."""
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
        except (OSError, ValueError):  # a missing file or an invalid path; load_blocks() reports it
            return False
        with self._lock:
            self._file_bytes += num_bytes
            return self._file_bytes > PROCESS_BYTES


class _Processes:
    """The worker processes. One is started whenever a source has to be decoded and none is idle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._is_closed = False

    def decode(self, source: Path | bytes, options: dict[str, Any], cutting: Cutting | None, stop: Stop) -> Reading:
        """Decode a source in a worker process; `options` are the keyword arguments of decode_blocks.

        A worker handles one source at a time: it is idle again only after its last answer has been received. If the
        worker dies, or the consumer stops early, only this source is lost and the worker is closed.
        """
        child = self._take()
        is_over = False
        try:
            stop.watch(child)
            send(child.socket, (source, options, cutting))
            while not is_over:
                audio: Audio = receive(child.socket)
                is_over = is_last(audio)
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
            if not is_over:  # the consumer stopped before the last answer
                child.close()
                self._put_back(child)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for child in self._busy:
                child.process.terminate()  # the thread that waits for its answer removes it from _busy
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


def _is_read_at_once(source: object, cutting: Cutting | None) -> bool:
    most_s = AT_ONCE_S if cutting is None else min(AT_ONCE_S, cutting.whole_s)
    return isinstance(source, bytes) and needs_no_decoding(source, most_s)
