"""The work on a job by one process; any number of processes, on any machines that share the folder, may do the same.

    claim a shard -> its inputs -> the model -> a record in the journal for each -> the shard's file

The model gets one endless list: the next shard is claimed when the model asks for more inputs, so that it never waits
between shards.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..audio.inputs import AudioInput
from ..closing import Closing
from ..transcript import Transcript
from .folder import JobFolder
from .journal import Journal
from .lease import BEAT_S, EXPIRY_S, Lease, take_lease
from .plan import replace_file, shard_name

POLL_S = 1.0  # how often the end of others' work is looked for

Results: TypeAlias = Generator[tuple[int, Transcript], None, None]
Transcribe: TypeAlias = Callable[[Iterator[AudioInput]], Results]  # inputs -> (place among them, transcript), any order


@dataclass(slots=True, eq=False)
class _Shard:
    """A shard that this process works on."""

    number: int
    lease: Lease
    journal: Journal
    num_left: int
    lock: threading.Lock = field(default_factory=threading.Lock)  # one thread closes what another keeps alive

    def beat(self) -> None:
        """Keep the lease, and sync the journal. Raises OSError."""
        with self.lock:
            self.lease.beat()
            self.journal.sync()

    def close(self) -> None:
        with self.lock:
            self.journal.close()
            self.lease.close()


@dataclass(slots=True)
class _Counts:
    started: float = field(default_factory=time.monotonic)
    files: int = 0
    audio_s: float = 0.0


class JobRun(Closing):
    """One process's part of a job."""

    def __init__(self, folder: JobFolder, *, retry_failed: bool = False, expiry_s: float = EXPIRY_S) -> None:
        """`retry_failed`: inputs that complete shards hold as errors are done again, once."""
        self._folder = folder
        self._retry_failed = retry_failed
        self._expiry_s = expiry_s
        self._name = uuid.uuid4().hex[:12]
        self._tried: set[int] = set()  # complete shards whose failures have been tried again
        self._shards: dict[int, _Shard] = {}
        self._places: dict[int, tuple[_Shard, int]] = {}  # place among the model's inputs -> shard and position in it
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publish-shard")
        self._publishing: Future[None] | None = None
        self._counts = _Counts()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="job-heart", daemon=True)

    def run(self, transcribe: Transcribe) -> Generator[Transcript, None, None]:
        """Yield each transcript once it is in a journal. Ends when the whole job is complete, also by others.

        Raises:
            OSError: the folder cannot be written any more; what is in it stays valid.
            DecodeError: the model's engine failed.
        """
        self._heart.start()
        while True:
            with contextlib.closing(transcribe(self._inputs())) as results:
                for place, transcript in results:
                    self._take(place, transcript)
                    yield transcript
            self._await_publishing()
            if not self._open_shards():
                return
            time.sleep(POLL_S)

    def close(self) -> None:
        """Release what is claimed; idempotent."""
        self._ended.set()
        if self._heart.is_alive():
            self._heart.join()
        self._publisher.shutdown(wait=True)
        for shard in list(self._shards.values()):
            shard.close()
        self._shards.clear()
        self._worker_path.unlink(missing_ok=True)

    def _take(self, place: int, transcript: Transcript) -> None:
        """Write one result into its shard's journal; publish the shard if it was the last."""
        shard, position = self._places.pop(place)
        shard.journal.append(position, transcript)
        self._counts.files += 1
        self._counts.audio_s += transcript.duration
        shard.num_left -= 1
        if not shard.num_left:
            self._finish(shard)

    def _open_shards(self) -> list[int]:
        """The shards that nobody has completed, or whose failures are to be tried again."""
        complete = self._folder.complete()
        if self._retry_failed:
            untried = complete - self._tried
            clean = {shard for shard in untried if not self._folder.report(shard).failed}
            self._tried |= clean
            complete -= untried - clean
        return [shard for shard in range(self._folder.plan.num_shards) if shard not in complete]

    def _inputs(self) -> Iterator[AudioInput]:
        """The inputs of all shards that can be claimed now; called in the thread of run()."""
        place = 0
        for number in self._open_shards():
            if number in self._shards or (claimed := self._claim(number)) is None:
                continue
            shard, todo = claimed
            items = self._folder.plan.inputs(number)
            for position in todo:
                self._places[place] = (shard, position)
                place += 1
                yield items[position]

    def _claim(self, number: int) -> tuple[_Shard, list[int]] | None:
        """The shard, and the positions that are to be done; None if another has it or nothing is to be done."""
        lease = take_lease(self._folder.directory / "leases", shard_name(number), expiry_s=self._expiry_s)
        if lease is None:
            return None
        lines = self._folder.published(number)
        if lines:  # complete: by another since we looked, or its failures are to be tried again
            if not self._retry_failed or number in self._tried:
                lease.close()
                return None
            self._tried.add(number)
            lines = {position: record for position, record in lines.items() if record.is_ok}
        lines |= self._folder.journaled(number)
        todo = [position for position in range(self._folder.plan.size(number)) if position not in lines]
        shard = _Shard(number, lease, Journal(self._folder.journal_path(number, self._name)), len(todo))
        self._shards[number] = shard
        if not todo:
            self._finish(shard)
            return None
        return shard, todo

    def _finish(self, shard: _Shard) -> None:
        """Publish a shard in the background. One waits at a time."""
        self._await_publishing()
        self._publishing = self._publisher.submit(self._publish, shard)

    def _publish(self, shard: _Shard) -> None:
        shard.journal.sync()
        if shard.lease.is_held:
            self._folder.publish(shard.number)
        self._shards.pop(shard.number, None)
        shard.close()

    def _await_publishing(self) -> None:
        if self._publishing is not None:
            publishing, self._publishing = self._publishing, None
            publishing.result()

    @property
    def _worker_path(self) -> Path:
        return self._folder.directory / "workers" / f"{self._name}.json"

    def _beat(self) -> None:
        """The thread that keeps the leases, syncs the journals and says how fast this process is."""
        while not self._ended.wait(BEAT_S):
            for shard in list(self._shards.values()):
                with contextlib.suppress(OSError):  # a journal that cannot be synced fails in run()
                    shard.beat()
            with contextlib.suppress(OSError):  # only --status reads this
                replace_file(self._worker_path, self._rates())

    def _rates(self) -> bytes:
        elapsed = time.monotonic() - self._counts.started
        rates = {"files_per_s": self._counts.files / elapsed, "audio_per_s": self._counts.audio_s / elapsed}
        return json.dumps({"host": platform.node(), "process": os.getpid(), **rates}).encode()
