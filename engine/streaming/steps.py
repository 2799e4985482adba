"""Steps that wait for futures: a generator that yields each one and gets its result, or its error, in return."""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from ..errors import ASRError
from .events import Event

Done = TypeVar("Done")
Steps: TypeAlias = Generator[Future[Any], Any, list[Event]]


def outcome_of(future: Future[Done]) -> Generator[Future[Done], Done, Done | ASRError]:
    """A step: what a future gives, or its error."""
    try:
        return (yield future)
    except ASRError as error:
        return error


def wait(steps: Steps) -> list[Event]:
    """Do the steps in this thread. If Ctrl-C ends the wait, the steps are over."""
    with contextlib.closing(steps):
        outcome = _resume(steps)
        while isinstance(outcome, Future):
            error = outcome.exception()
            outcome = _resume(steps, outcome.result()) if error is None else _raise_in(steps, error)
        return outcome


async def wait_on_loop(cancel: Callable[[], None], steps: Steps) -> list[Event]:
    """Do the steps on the event loop, which waits for no future. `cancel` is called if this is cancelled."""
    first = asyncio.create_task(asyncio.to_thread(_resume, steps))  # the VAD takes long if much audio was pushed
    try:
        outcome = await asyncio.shield(first)
        while isinstance(outcome, Future):
            try:
                result = await asyncio.wrap_future(outcome)
            except ASRError as error:
                outcome = _raise_in(steps, error)
            else:
                outcome = _resume(steps, result)
    except asyncio.CancelledError:
        await asyncio.wait([first])  # a thread cannot be stopped
        cancel()
        raise
    return outcome


def _resume(steps: Steps, result: object = None) -> Future[Any] | list[Event]:
    """Run the steps up to their next future, or to their end, which gives the events."""
    try:
        return steps.send(result)  # None starts it
    except StopIteration as end:
        events: list[Event] = end.value
        return events


def _raise_in(steps: Steps, error: BaseException) -> Future[Any] | list[Event]:
    """Go on with the steps where their future has this error in place of a result."""
    try:
        return steps.throw(error)
    except StopIteration as end:
        events: list[Event] = end.value
        return events
