"""The boundary around one input: whatever is raised on its behalf fails that input alone.

Everything that is done for one clip, in any stage, runs inside `alone`, and everything that is done for several clips
at once runs inside `isolated`. An exception becomes that clip's error, and all others go on. This file holds the one
`except Exception` of the engine. It is broad on purpose: the tokenizers, the encoders, the word timer and the writers
call a dozen libraries, and no list of what these may raise for hostile input is complete. The end of the engine itself
does not pass through here: it is found in `Decoder.poll` and in `recover`, outside the handler.
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
    except Exception as error:  # noqa: BLE001 - the boundary that this file is about
        return error


def isolated(
    step: str,
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Done]],
    *,
    name: Callable[[Item], str] = str,
    recover: Callable[[], None] = lambda: None,
) -> list[Done | ASRError]:
    """Do `work` on some items together; where that raises, on each half of them, down to the item that raises alone.

    Args:
        step: what the log and the error call the work.
        items: at least one.
        work: items -> one result each. It may be called again with some of the items.
        name: what the log and the error call an item.
        recover: called after an unexpected exception, once nothing refers to it any more. What it raises ends
            everything.

    Returns:
        One result for each item, or the error that says why there is none. An ASRError is returned as it is; any other
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
    del outcome  # with its traceback, which keeps alive what the work has allocated
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
    """Do `work` for one item, which str() names; see `isolated`."""
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
    """PyTorch has a class for its own allocator on a GPU; its CPU allocator and CUDA's libraries only say so."""
    text = str(error).lower()
    is_said = "out of memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_said)


def _described(error: Exception) -> str:
    """Its type, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
