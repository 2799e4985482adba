"""ModelLock: one user at a time may run a loaded model, in the process that loaded it, until the model is closed.

A user is an iterator of results or a service. An iterator runs while a result is taken from it, and is suspended
between two results. A service runs in a thread of its own.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from .errors import ConfigError

_CLOSED = "this model is closed; build a new one"


class OwnProcess:
    """Remembers the process in which it is made.

    A forked child lacks its parent's threads and cannot use its GPU context or talk to its child processes: it would
    wait for ever.
    """

    def __init__(self) -> None:
        self._process_id = os.getpid()

    @property
    def is_here(self) -> bool:
        return os.getpid() == self._process_id

    def require(self) -> None:
        """Raises ConfigError in a process that was forked from that one."""
        if not self.is_here:
            raise ConfigError(
                f"this model was loaded in process {self._process_id}, used in {os.getpid()}, which was made by fork: "
                "load it in the process that uses it, or start that one by multiprocessing's 'spawn'"
            )


class ModelLock:
    """Lets one user at a time run both stages of a model. Others wait, unless they would wait for their own thread."""

    def __init__(self) -> None:
        self.process = OwnProcess()
        self._lock = threading.Lock()  # held by the user
        self._changed = threading.Condition()  # guards the attributes below
        self._has_user = False  # whether a user holds the lock, and not one of those who wait for it
        self._thread: threading.Thread | None = None  # the user's latest thread; a thread id could be reused
        self._is_running = False  # whether an iterator is at work, and not suspended
        self._is_closed = False
        self._close_user: Callable[[], None] | None = None  # ends the user if it is a service

    @property
    def is_open(self) -> bool:
        """Whether the model is not closed, and was not loaded by the process that this one was forked from."""
        return not self._is_closed and self.process.is_here

    def require_open(self) -> None:
        """Raises ConfigError if the model is closed, or was loaded by another process."""
        self.process.require()
        if self._is_closed:
            raise ConfigError(_CLOSED)

    def acquire(self, *, blocking: bool = True, on_close: Callable[[], None] | None = None) -> bool:
        """Become the user, once nobody else is. Without `blocking`, returns False at once if the model is in use.

        `on_close` ends a service. An iterator gives none, because it notices the end by itself.

        Raises:
            ConfigError: the model is closed; or an iterator or a service of this same thread uses it, for which this
                thread would wait for ever.
        """
        self.require_open()
        if blocking and self._thread is threading.current_thread():
            raise ConfigError(
                "this model is at work for an unfinished generate_iter(), or a service, of the same thread: take all "
                "of its results or close() it first"
            )
        if not self._lock.acquire(blocking=blocking):
            return False
        with self._changed:
            if not self._is_closed:
                self._has_user = True
                self._thread, self._close_user = threading.current_thread(), on_close
                self._is_running = on_close is None
                return True
        self._lock.release()
        raise ConfigError(_CLOSED)

    def release(self) -> None:
        """Let others use the model. May be called in any thread."""
        with self._changed:
            self._thread, self._close_user, self._is_running = None, None, False
            self._changed.notify_all()
            if self._has_user:  # unless close() has released it
                self._has_user = False
                self._lock.release()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The lifetime of an iterator, suspensions included. Raises what acquire() raises."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Encloses the `yield` of an iterator's result. Raises ConfigError if the model was closed meanwhile."""
        self._set_running(False)
        try:
            yield
        finally:
            self._set_running(True)
        if self._is_closed:
            raise ConfigError("this model was closed before all results had been taken; the rest is lost")

    def close(self) -> bool:
        """Let nobody use the model any more. Returns False if it is closed already, or belongs to a parent process.

        It waits until a service has ended, or until an iterator that runs in another thread has reached its next
        result. Those who wait for the model get an error.

        Raises:
            ConfigError: the call comes from the generator of a running iterator's inputs, or from a service's thread.
        """
        with self._changed:
            if self._is_closed or not self.process.is_here:
                return False
            if self._is_running and self._thread is threading.current_thread():
                raise ConfigError("this model is at work for those who ask for these inputs; close it after them")
            self._is_closed = True
            close_user = self._close_user
        if close_user is not None:
            try:
                close_user()
            except ConfigError:
                self._is_closed = False
                raise
        with self._changed:
            self._changed.wait_for(lambda: not self._is_running)
        self.release()  # a suspended iterator may never go on, and others wait for it
        return True

    def _set_running(self, is_running: bool) -> None:
        with self._changed:
            self._is_running, self._thread = is_running, threading.current_thread()
            self._changed.notify_all()
