"""Replicas: one list of inputs and one of results, for engines on several devices.

Each process (worker.py) holds both stages and reads the inputs that it is given. Here is what they share: the list,
which this process takes inputs from as they have room for more; and the results, in the order in which they finish. An
input goes to the process that has the fewest. One of those that a process had when it failed may have ended it, so that
they are tried again in small groups, and those of a group over which a process failed too are tried one by one. A
process that fails over one input makes it this input's error. The last process is started anew if it fails.

Memory is bounded: a process takes up inputs as a single engine does, and may have AHEAD more.
"""

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from ..audio.inputs import AudioInput
from ..audio.waveform import AudioLimits
from ..clip import Result
from ..closing import Closing
from ..cores import shares_of_cores
from ..errors import ASRError, DecodeError
from ..families.base import ModelFamily
from ..model_lock import ModelLock
from ..run_options import TranscribeOptions
from ..transcriber import Results
from ..transcript import Transcript
from ..worker_process import wait_readable
from .handover import portable, portable_options
from .messages import Load, Over
from .replica import Replica, close_all

MOST_FRUITLESS = 2  # processes in succession that failed without a result before the last device is given up
SUSPECTS = 16  # inputs of a group that is tried again
FEED_S = 0.002  # inputs that come slowly are sent, and results looked for, as often as this

logger = logging.getLogger(__name__)

Entry = tuple[int, AudioInput]  # place in the list of inputs, and the input


class Replicas(Closing):
    """Engines on several devices, which transcribe lists of inputs as one Transcriber does."""

    def __init__(self, family: ModelFamily, loads: Sequence[tuple[str, Load]]) -> None:
        """Start a process for each (device, function that loads the model there), and wait until all are ready.

        Raises:
            ASRError: a model cannot be loaded; the message begins with its device.
        """
        self.lock = ModelLock()
        self._family = family
        self._replicas: list[Replica] = []  # those that have not failed
        self._failure = ""  # why the last one failed
        self._num_fruitless = 0  # see MOST_FRUITLESS
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(lambda: close_all(self._replicas, wait_s=0.0))  # those that load do not listen
            for (device, load), cores in zip(loads, shares_of_cores(len(loads)), strict=True):
                self._replicas.append(Replica(device, load, cores))
            for replica in self._replicas:
                replica.wait_until_ready()
            on_failure.pop_all()

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that have not failed."""
        return tuple(replica.device for replica in self._replicas)

    @property
    def spent(self) -> list[tuple[str, Over]]:
        """How long each of these has waited, and worked, by the end of the last list."""
        return [(replica.device, replica.spent) for replica in self._replicas]

    def run(self, inputs: Iterable[AudioInput], options: TranscribeOptions) -> Results:
        """Yield (index in `inputs`, transcript) in the order in which they finish; closing it drops the rest.

        An input that cannot be transcribed yields a transcript of status "error".

        Raises:
            ConfigError: at once, if the family does not know the language, the model is closed or was loaded by
                another process. While iterating, if this thread already uses the model, or the model was closed.
            AudioError, CheckpointError, HubError: while iterating, if a known speaker's clip cannot be read, or
                speakers are asked for and there is no speaker model.
            DecodeError: while iterating, if all devices have failed.
        """
        self.lock.require_open()
        self._family.prompt_text(options.request)
        return self._run(inputs, portable_options(options))

    def close(self) -> None:
        """End the processes; idempotent. A forked child does nothing: its parent owns them."""
        if self.lock.close():
            close_all(self._replicas)

    def _run(self, inputs: Iterable[AudioInput], options: TranscribeOptions) -> Results:
        with self.lock.running():
            try:
                with contextlib.closing(self._results(_Todo(inputs, options.limits), options)) as results:
                    for result in results:
                        with self.lock.suspended():
                            yield result
            finally:
                if self.lock.is_open:
                    self._cancel()

    def _results(self, todo: "_Todo", options: TranscribeOptions) -> Results:
        self._cancel()  # what is left of a list whose end was interrupted
        if not self._replicas:
            raise DecodeError(self._failure)
        while True:
            may_wait = self._feed(todo, options)
            if todo.is_over and not any(replica.is_open for replica in self._replicas):
                return
            for replica in self._with_news(None if may_wait else 0.0):
                yield from replica.receive()
                if replica.refusal is not None:
                    raise replica.refusal
                if replica.failure:
                    yield from self._without(replica, todo)

    def _without(self, replica: Replica, todo: "_Todo") -> Iterator[Result]:
        """Go on without a process that has failed. Raises DecodeError if it was the last, and cannot be replaced."""
        lost = replica.lost()
        if replica.is_testing and len(lost) == 1:
            ((place, item),) = lost
            error = DecodeError(f"several processes failed over it, the last over it alone: {replica.failure}")
            yield place, Transcript.failed(item.key, error)
        else:
            todo.suspect(lost, 1 if replica.is_testing else SUSPECTS)
        self._give_up(replica)
        if not self._replicas:
            self._start_again(replica)

    def _start_again(self, last: Replica) -> None:
        self._num_fruitless = 0 if last.has_worked else self._num_fruitless + 1
        if self._num_fruitless > MOST_FRUITLESS:
            raise DecodeError(self._failure)
        logger.error("%s; it is started anew", self._failure)
        with contextlib.ExitStack() as on_failure:
            replica = last.again()
            on_failure.callback(replica.close)
            try:
                replica.wait_until_ready()
            except ASRError as error:
                raise DecodeError(f"{self._failure}; starting it anew failed: {error}") from error
            on_failure.pop_all()
        self._replicas.append(replica)

    def _feed(self, todo: "_Todo", options: TranscribeOptions) -> bool:
        """Hand over inputs for a moment; returns whether nothing more can be handed over now."""
        is_test = bool(todo.suspects)
        may_wait = self._test(todo, options) if is_test else self._hand_over(todo, options)
        for replica in self._replicas:
            replica.flush()
            if is_test or todo.is_over:  # otherwise the last few would wait for a full batch
                replica.end()
        return may_wait

    def _test(self, todo: "_Todo", options: TranscribeOptions) -> bool:
        """Give each process that has nothing a group of suspects; the others finish what they have."""
        for replica in self._replicas:
            if todo.suspects and not replica.num_handed:
                group = todo.suspects.popleft()
                num_added = sum(itertools.takewhile(bool, (replica.add(*entry, options) for entry in group)))
                replica.is_testing = num_added > 0
                if num_added < len(group):
                    todo.suspects.appendleft(group[num_added:])
        return True

    def _hand_over(self, todo: "_Todo", options: TranscribeOptions) -> bool:
        begun, may_wait = time.monotonic(), True
        while (open_ones := self._with_room()) and (entry := todo.take()) is not None:
            if not any(replica.add(*entry, options) for replica in open_ones):
                todo.put_back(entry)
                break
            if time.monotonic() > begun + FEED_S:
                may_wait = False
                break
        return may_wait

    def _with_room(self) -> list[Replica]:
        """The processes that have room for another input, the one with the fewest first."""
        return sorted((one for one in self._replicas if one.has_room), key=lambda one: one.num_handed)

    def _with_news(self, wait_s: float | None) -> list[Replica]:
        """The processes that have sent something, or have ended. None waits for the first."""
        ready = wait_readable([replica.fileno for replica in self._replicas], wait_s)
        return [replica for replica in self._replicas if replica.fileno in ready]

    def _give_up(self, replica: Replica) -> None:
        self._replicas.remove(replica)
        replica.close()
        reason = f"{replica.device}: {replica.failure}"
        if self._replicas:
            logger.error("%s and is given up; its inputs go to %s", reason, ", ".join(self.devices))
        else:
            self._failure = f"all devices have failed, the last was {reason}; its log may say more"

    def _cancel(self) -> None:
        """Let all processes drop what they have, and wait until they have."""
        for replica in self._replicas:
            replica.cancel()
        for replica in list(self._replicas):
            while replica.is_open and not replica.failure:
                replica.receive()
            if replica.failure:
                self._give_up(replica)  # if it was the last, the next run raises DecodeError


class _Todo:
    """The inputs that no process has."""

    def __init__(self, inputs: Iterable[AudioInput], limits: AudioLimits) -> None:
        self._rest: Iterator[Entry] = enumerate(inputs)
        self._limits = limits
        self._back: deque[Entry] = deque()  # those that could not be handed over at first
        self.suspects: deque[Sequence[Entry]] = deque()  # groups of those that a process had when it failed
        self._is_read = False  # to its end

    @property
    def is_over(self) -> bool:
        return self._is_read and not self._back and not self.suspects

    def take(self) -> Entry | None:
        """The next input; None if there is none."""
        if self._back:
            return self._back.popleft()
        for place, item in self._rest:
            return place, portable(item, self._limits)
        self._is_read = True
        return None

    def put_back(self, entry: Entry) -> None:
        self._back.append(entry)

    def suspect(self, entries: Sequence[Entry], size: int) -> None:
        """Let these be tried next, in groups of this size."""
        self.suspects.extendleft(entries[start : start + size] for start in reversed(range(0, len(entries), size)))
