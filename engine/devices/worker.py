"""A process with an engine on one device; messages.py says what passes between it and replicas.py.

Its main thread runs the engine, as a Transcriber does in a process of its own. One thread receives and one sends, so
that neither this process nor its parent ever waits for the other to read. What the engine logs goes into the parent's
log, where the user sees it.
"""

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from ..console import quiet_libraries, spare_loaded_objects
from ..worker_process import connect, pack, receive, send_packed

quiet_libraries()  # before torch and vLLM are imported
if __name__ == "__main__":
    parent = connect()  # as well: from here on this process ends with its parent, and those imports take seconds

from ..arena import Arena
from ..audio.inputs import AudioInput
from ..errors import ASRError
from ..transcriber import READ_WAIT_S, Transcriber
from .messages import Ask, Begin, Event, Given, Logged, Over, Refusal, Said, Setup

MOST_EVENTS = 256  # in one message
TAKEN_AT_ONCE = 16  # inputs that are taken up before the parent is told, so that it sends others

_END: object = object()


class _Inbox:
    """What the parent has sent. Whether it has cancelled is known before the messages in between are taken."""

    def __init__(self, source: socket.socket) -> None:
        self.is_cancelled = threading.Event()
        self.starved_s = 0.0  # in get(), with a limit: for inputs of a list
        self._source = source
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._kept: list[object] = []
        threading.Thread(target=self._receive_all, name="receive", daemon=True).start()

    def get(self, wait_s: float | None = None) -> object:
        """The next message. Raises queue.Empty if none comes within `wait_s` seconds."""
        if self._kept:
            return self._kept.pop()
        begun = time.monotonic()
        try:
            return self._messages.get(timeout=wait_s)
        finally:
            if wait_s is not None:
                self.starved_s += time.monotonic() - begun

    def keep(self, message: object) -> None:
        """Let get() return this message once more."""
        self._kept.append(message)

    def _receive_all(self) -> None:
        with contextlib.suppress(EOFError, OSError):  # the parent has ended, and this process is about to
            while True:
                message = receive(self._source)
                if message is Ask.CANCEL:
                    self.is_cancelled.set()
                self._messages.put(message)


class _Outbox:
    """Sends events, several in one message if they come fast."""

    def __init__(self, to: socket.socket) -> None:
        self.blocked_s = 0.0  # the parent had no room for more
        self._to = to
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="send", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        self._events.put(event)

    def close(self) -> None:
        """Wait until all events are sent."""
        self._events.put(_END)
        self._thread.join()

    def _send_all(self) -> None:
        with contextlib.suppress(OSError):  # the parent has ended, and this process is about to
            while True:
                events = [self._events.get()]
                with contextlib.suppress(queue.Empty):
                    while len(events) < MOST_EVENTS:
                        events.append(self._events.get_nowait())
                if wanted := [event for event in events if event is not _END]:
                    pieces, begun = pack(wanted), time.monotonic()
                    send_packed(self._to, pieces)
                    self.blocked_s += time.monotonic() - begun
                if len(wanted) < len(events):
                    return


class _Log(logging.Handler):
    """Hands the lines of our loggers to the parent, whose log decides which of them it shows."""

    def __init__(self, outbox: _Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        self._outbox.put(Logged(record.name, record.levelno, self.format(record)))


def _log_to(outbox: _Outbox) -> None:
    ours = logging.getLogger(__package__.partition(".")[0])
    ours.addHandler(_Log(outbox))
    ours.setLevel(logging.INFO)
    ours.propagate = False


class _List:
    """One list of inputs, from its Begin to its end."""

    def __init__(self, inbox: _Inbox, outbox: _Outbox, arena: Arena) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._arena = arena
        self._places: dict[int, int] = {}  # index among the inputs of this list -> place among the parent's
        self._num_taken = 0
        self._num_told = 0

    def transcribe(self, model: Transcriber, begin: Begin) -> None:
        """Send all results, unless the parent cancels. Raises DecodeError."""
        try:
            results = model.run(self._inputs(), begin.options)
        except ASRError as error:
            self._outbox.put(Refusal(error))
            return
        with contextlib.closing(results):
            for index, transcript in results:
                if self._inbox.is_cancelled.is_set():
                    return
                self._outbox.put((self._places.pop(index), transcript))
        self._outbox.put(Over(self._inbox.starved_s, self._outbox.blocked_s, time.thread_time()))

    def _inputs(self) -> Iterator[AudioInput | None]:
        """The inputs as they come; None as long as none comes."""
        while not self._inbox.is_cancelled.is_set():
            try:
                message = self._inbox.get(READ_WAIT_S)
            except queue.Empty:
                self._tell_taken()
                yield None
                continue
            if not isinstance(message, list):
                self._tell_taken()
                if message is not Ask.END:
                    self._inbox.keep(message)
                return
            for given in message:
                self._places[self._num_taken] = given.place
                self._num_taken += 1
                if self._num_taken >= self._num_told + TAKEN_AT_ONCE:
                    self._tell_taken()
                yield self._item(given)

    def _item(self, given: Given) -> AudioInput:
        if given.start is None:
            return given.item
        return replace(given.item, source=self._arena.waveform(given.start, given.num_samples))

    def _tell_taken(self) -> None:
        if self._num_taken > self._num_told:
            self._outbox.put(self._num_taken - self._num_told)
            self._num_told = self._num_taken


def main(source: socket.socket) -> None:
    """Transcribe until the parent asks this process to leave, or ends."""
    outbox = _Outbox(source)
    _log_to(outbox)
    setup: Setup = receive(source)
    try:
        model = setup.load()
    except ASRError as error:
        outbox.put(error)
        outbox.close()
        return
    spare_loaded_objects()
    outbox.put(Said.READY)
    with contextlib.closing(model):
        try:
            _serve(model, _Inbox(source), outbox, Arena(setup.memory))
        except ASRError as error:
            outbox.put(error)
            outbox.close()


def _serve(model: Transcriber, inbox: _Inbox, outbox: _Outbox, arena: Arena) -> None:
    while (message := inbox.get()) is not Ask.LEAVE:
        if message is Ask.CANCEL:
            inbox.is_cancelled.clear()
            outbox.put(Said.CANCELLED)
        elif isinstance(message, Begin) and not inbox.is_cancelled.is_set():
            _List(inbox, outbox, arena).transcribe(model, message)
        # Anything else belongs to a list that was cancelled or refused.


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main(parent)
