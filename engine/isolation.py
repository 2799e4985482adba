"""Fault isolation: an exception that one input causes fails that input alone.

Work for one clip, in any stage, runs inside `alone`, and work for several clips at once inside `isolated`. An exception
becomes the clip's error, and all other clips go on.

This file has the engine's only `except Exception`. It is broad on purpose: the tokenizers, the encoders, the word timer
and the writers call a dozen libraries, and any list of what these may raise for hostile input would be incomplete. A
failure of the engine itself is not caught here: `Decoder.poll` and `recover` raise it outside the handler.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from .errors import ASRError, InternalError, OutOfMemoryError

Item = TypeVar("Item")
Done = TypeVar("Done")

logger = logging.getLogger(__name__)


def caught(work: Callable[[], Done]) -> Done | Exception:
    """What `work` returns, or the exception that it raises."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - the isolation boundary
        return error


def isolated(
    step: str,
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Done]],
    *,
    name: Callable[[Item], str] = str,
    recover: Callable[[], None] = lambda: None,
) -> list[Done | ASRError]:
    """Do `work` on some items together. If that raises, do it on each half, down to the items that raise alone.

    Args:
        step: the name of the work in the log and in errors.
        items: at least one.
        work: items -> one result for each. It may be called again with some of the items.
        name: item -> its name in the log and in errors.
        recover: called after an unexpected exception, once nothing refers to it any more. An exception that `recover`
            raises is not caught.

    Returns:
        For each item its result, or the error that says why there is none. An ASRError is returned as it is. Any other
        exception is logged with its traceback and becomes an InternalError or OutOfMemoryError.
    """
    outcome = caught(lambda: work(items))
    if not isinstance(outcome, Exception):
        return list(outcome)
    if len(items) == 1:
        failure = _failure(step, name(items[0]), outcome)
    else:
        logger.warning("%s failed for %d clips together, each half is tried: %s", step, len(items), _described(outcome))
    is_expected = isinstance(outcome, ASRError)
    del outcome  # its traceback would keep alive what the work has allocated
    if not is_expected:
        recover()
    if len(items) == 1:
        return [failure]
    half = len(items) // 2
    parts = (items[:half], items[half:])
    return [done for part in parts for done in isolated(step, part, work, name=name, recover=recover)]


def alone(
    step: str, item: object, work: Callable[[], Done], *, recover: Callable[[], None] = lambda: None
) -> Done | ASRError:
    """Do `work` for one item, whose name is str(item); see `isolated`."""
    (outcome,) = isolated(step, [item], lambda _: [work()], recover=recover)
    return outcome


def _failure(step: str, name: str, error: Exception) -> ASRError:
    if isinstance(error, ASRError):
        return error
    logger.error("%s failed for %s", step, name, exc_info=error)
    if _is_out_of_memory(error):
        return OutOfMemoryError(f"{step}: {name} does not fit into the memory that is left: {_described(error)}")
    return InternalError(f"{step} failed for {name}: {_described(error)}")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. PyTorch's CPU allocator and CUDA's libraries say so only in the message."""
    text = str(error).lower()
    is_said = "out of memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_said)


def _described(error: Exception) -> str:
    """The error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
