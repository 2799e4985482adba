"""Replica: the parent's view of a process with an engine on one device (worker.py)."""

import contextlib
import logging
import os
import subprocess
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ..arena import Arena
from ..audio.inputs import AudioInput
from ..clip import Result
from ..cores import starting_on
from ..errors import ASRError, DecodeError
from ..run_options import TranscribeOptions
from ..worker_process import Child, pack, receive, start_child
from .feeder import Copy, Feeder
from .handover import waveform_of, without_waveform
from .messages import Ask, Begin, Event, Given, Load, Logged, Over, Refusal, Said, Setup
from .names import environment_of

WORKER = f"{__package__}.worker"
# Waveforms that a process may hold at a time: those that are read ahead, wait for a batch, or are decoded. Four vLLM
# engines take up 4,096 prompts, with about 2,000 clips on their way there, which are 8 GB if they are 20 s long each.
# Where that is too little, the process has fewer in flight. Memory is taken as it is written.
ARENA_BYTES = 8 << 30
AHEAD = 256  # inputs that a process has not taken up, so that it need not wait for this one between two messages
AHEAD_BYTES = 64 << 20  # that these hold, besides what lies in the arena
LEAVE_S = 10.0  # that a process has to end vLLM and its other processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Handed:
    """An input that a process has."""

    item: AudioInput
    start: int | None  # of its waveform in the arena


class Replica:
    """One process. No method raises when it has ended: `failure` says so, and why."""

    def __init__(self, device: str, load: Load, cores: Collection[int]) -> None:
        """Start the process on these cores; `load` runs there."""
        self.device = device
        self.again = partial(Replica, device, load, cores)  # starts another process for the same device
        self.failure = ""
        self.has_worked = False  # some result has come
        self.is_testing = False  # it has nothing but inputs that a process had when it failed
        self.spent = Over()  # by the last list that has ended
        self.refusal: ASRError | None = None  # why it does not take the list of inputs
        memory = Arena.create(ARENA_BYTES)
        try:
            with starting_on(cores):
                self._child: Child = start_child(WORKER, pass_fds=(memory,), environment=environment_of(device))
            self._arena = Arena(memory)
            self._feeder = Feeder(self._child.socket)
            self._send(Setup(load, memory))
        finally:
            os.close(memory)  # both processes have mapped it, or inherited it
        self._handed: dict[int, _Handed] = {}  # by place; no result has come yet
        self._ahead: deque[int] = deque()  # bytes of each input that the process has not taken up
        self._bytes_ahead = 0
        self._outbox: list[Given] = []
        self._copies: list[Copy] = []  # of the waveforms of these
        self._is_ready = False  # it has loaded the model
        self._is_begun = False  # inputs may be added to the current list
        self._num_lists = 0  # that are not over
        self._is_cancelled = False  # these are to be dropped, and the process has not said that it has

    def wait_until_ready(self) -> None:
        """Raises the ASRError with which loading has failed, or DecodeError if the process has ended."""
        while not self._is_ready:
            try:
                events: list[Event] = receive(self._child.socket)
            except (EOFError, OSError):
                message = f"{self.device}: {self._ended()} while it loaded the model; its log says why"
                raise DecodeError(message) from None
            for event in events:
                if isinstance(event, ASRError):
                    raise type(event)(f"{self.device}: {event}")
                self._take(event)

    @property
    def num_handed(self) -> int:
        """Inputs whose results are not there."""
        return len(self._handed)

    @property
    def has_room(self) -> bool:
        return not self.is_testing and len(self._ahead) < AHEAD and self._bytes_ahead < AHEAD_BYTES

    @property
    def is_open(self) -> bool:
        """Whether it has a list of inputs that is not over, or has not answered to cancel(), maybe after its end."""
        return self._num_lists > 0 or self._is_cancelled

    @property
    def fileno(self) -> int:
        return self._child.socket.fileno()

    def add(self, place: int, item: AudioInput, options: TranscribeOptions) -> bool:
        """Hand over one input, with the next flush(). False if there is no room for its waveform at the moment."""
        start, waveform, sent = None, waveform_of(item), item
        if waveform is not None:
            start = self._arena.take(len(waveform))
            if start is None:
                return False
            self._copies.append((self._arena.waveform(start, len(waveform)), waveform))
            sent = without_waveform(item)
        if not self._is_begun:
            self._num_lists += 1  # first, so that Ctrl-C between the two leaves a list that is dropped
            self._is_begun = True
            self._send(Begin(options))
        num_samples = 0 if waveform is None else len(waveform)
        self._handed[place] = _Handed(item, start)
        self._ahead.append(sent.num_bytes)
        self._bytes_ahead += self._ahead[-1]
        self._outbox.append(Given(place, sent, start, num_samples))
        return True

    def flush(self) -> None:
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            copies, self._copies = self._copies, []
            self._send(outbox, copies)

    def end(self) -> None:
        """Say that the current list has no more inputs; add() begins another."""
        self.flush()
        if self._is_begun:
            self._is_begun = False
            self._send(Ask.END)

    def receive(self) -> list[Result]:
        """Wait for a message. Results may come with it, also if it says that the process has failed."""
        events: list[Event] | None = None
        with self._whole_message(), contextlib.suppress(EOFError, OSError):
            events = receive(self._child.socket)
        if events is None:
            self.failure = self._ended()
            return []
        for event in events:
            self._take(event)
        return [event for event in events if isinstance(event, tuple)]

    def cancel(self) -> None:
        """Drop all inputs; is_open says when the process has done so, and receive() waits for it."""
        if self.is_open and not self._is_cancelled:
            self._is_cancelled = True
            self._outbox.clear()
            self._copies.clear()
            self._send(Ask.CANCEL)

    def lost(self) -> list[tuple[int, AudioInput]]:
        """Of a process that has failed: the inputs whose results will not come."""
        return [(place, handed.item) for place, handed in self._handed.items()]

    def leave(self) -> None:
        """Ask the process to end, without waiting for it."""
        self._send(Ask.LEAVE)

    def close(self, wait_s: float = 0.0) -> None:
        """End the process, after `wait_s` seconds in which it may end by itself; idempotent."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.process.wait(wait_s)
        self._feeder.close()
        self._child.close()

    def _take(self, event: Event) -> None:
        match event:
            case int():
                for _ in range(event):
                    self._bytes_ahead -= self._ahead.popleft()
            case Said.READY:
                self._is_ready = True
            case Logged():
                logging.getLogger(event.name).log(event.level, "%s: %s", self.device, event.text)
            case Over():
                self._num_lists -= 1
                self.spent = event
            case Said.CANCELLED:
                self._forget()
            case Refusal():
                self.refusal = event.error
            case ASRError():
                self.failure = str(event)
            case (place, _):
                self._free(self._handed.pop(place))
                self.has_worked = True
                self.is_testing = self.is_testing and bool(self._handed)

    def _forget(self) -> None:
        for handed in self._handed.values():
            self._free(handed)
        self._handed.clear()
        self._ahead.clear()
        self._bytes_ahead, self._num_lists = 0, 0
        self._is_begun, self._is_cancelled, self.refusal = False, False, None
        self.is_testing = False

    def _free(self, handed: _Handed) -> None:
        if handed.start is not None:
            self._arena.free(handed.start)

    def _send(self, message: object, copies: Sequence[Copy] = ()) -> None:
        """A process that has ended needs no message: receive() finds that out."""
        with self._whole_message():
            self._feeder.send(pack(message), copies)

    @contextlib.contextmanager
    def _whole_message(self) -> Iterator[None]:
        """A message that is interrupted, as by Ctrl-C, is not sent, or a part of it is left in the socket."""
        before, self.failure = self.failure, "was interrupted within a message"
        yield
        self.failure = before

    def _ended(self) -> str:
        self._child.close()
        return f"its process ended, exit status {self._child.process.returncode},"


def close_all(replicas: Iterable[Replica], *, wait_s: float = LEAVE_S) -> None:
    """End the processes, all at the same time, after `wait_s` seconds at most in which they may do so themselves."""
    replicas, deadline = list(replicas), time.monotonic() + wait_s
    for replica in replicas:
        replica.leave()
    for replica in replicas:
        replica.close(max(0.0, deadline - time.monotonic()))
