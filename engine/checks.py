"""Check the names and types of options against the annotations that declare them.

A dataclass checks itself with check_fields(). Options given as keywords are checked with check_options() against the
TypedDict that declares them. Ranges of values are checked where the values are used. Each error is a ConfigError that
names the option, the value, and what is allowed.
"""

import dataclasses
import difflib
import functools
import inspect
import logging
import numbers
import types
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from .errors import ConfigError

logger = logging.getLogger(__name__)

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a string",
    type(None): "None",
    Iterable: "a list",
    Mapping: "a dict",
}


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raises ConfigError if `value` is not among `allowed`."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def check_fields(record: Any) -> None:
    """Raises ConfigError if a field of a dataclass does not have its declared type."""
    kind: Any = type(record)
    hints = _hints(kind)
    for field in dataclasses.fields(record):
        check_type(field.name, getattr(record, field.name), hints[field.name])


def check_options(options: Mapping[str, object], declared: type, *, others: Collection[str] = ()) -> None:
    """Raises ConfigError for a keyword that a TypedDict does not declare, or a value that lacks its declared type.

    Args:
        declared: the TypedDict.
        others: names of further arguments, which the message for an unknown keyword lists as well.
    """
    hints = _hints(declared)
    refuse_unknown(options.keys() - hints.keys(), [*others, *hints])
    for name, value in options.items():
        check_type(name, value, hints[name])


def check_arguments(function: Callable[..., Any], **arguments: object) -> None:
    """Raises ConfigError if an argument does not have the type that the function declares for it."""
    hints = _hints(function)
    for name, value in arguments.items():
        check_type(name, value, hints[name])


def check_type(name: str, value: object, hint: Any) -> None:
    """Raises ConfigError if a value does not fit an annotation. Elements of lists and dicts are not checked."""
    allowed = _alternatives(hint)
    if not any(_fits(value, kind) for kind in allowed):
        raise ConfigError(f"{name} must be {' or '.join(map(_described, allowed))}; got {value!r}")


def check_text(name: str, value: object) -> None:
    """Raises ConfigError unless `value` is a string without lone surrogates, which no tokenizer accepts.

    JSON ("\\ud800"), file names and some encodings of requests can put half of a surrogate pair into a Python string.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise ConfigError(
            f"{name} holds U+{code:04X} at position {error.start}: half of a surrogate pair, which is no character; "
            "give text of whole Unicode characters"
        ) from None


def checked_texts(name: str, value: Any) -> list[str | None]:
    """A string, None, or an iterable of both -> a list. Raises ConfigError for anything else."""
    check_type(name, value, str | Iterable | None)
    texts = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    for text in texts:
        check_type(f"each {name}", text, str | None)
    return texts


def refuse_unknown(unknown: Iterable[str], known: Collection[str]) -> None:
    """Raises ConfigError if there are unknown keywords, and suggests the nearest known one for each."""
    sentences = []
    for name in sorted(unknown):
        near = nearest(name, known)
        sentences.append(f"unknown argument {name!r}" + (f" (did you mean {near!r}?)" if near else ""))
    if sentences:
        raise ConfigError(f"{'; '.join(sentences)}; known: {', '.join(known)}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown one may have been meant to be; None if none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def say_unused(**arguments: object) -> None:
    """Log a warning for each of these arguments that was given. Another package has them; here they have no effect."""
    for name, value in arguments.items():
        if value is not None:
            logger.warning("%s=%r has no effect: this engine chooses for itself", name, value)


def argument_names(function: Callable[..., Any]) -> list[str]:
    """The named parameters of a function, without `self` and `cls`."""
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind not in variadic and one.name not in ("self", "cls")]


@functools.cache
def _hints(declared: Hashable) -> dict[str, Any]:
    return get_type_hints(declared)  # a class or a function


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: object, kind: Any) -> bool:
    origin = get_origin(kind) or kind
    if origin is Literal:
        return value in get_args(kind)
    if kind is bool:
        return isinstance(value, bool | np.bool_) or (type(value) is int and value in (0, 1))
    if kind is int or kind is float:
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    if origin is Iterable:
        return isinstance(value, Iterable) and not isinstance(value, str | bytes)
    return not isinstance(origin, type) or getattr(origin, "_is_protocol", False) or isinstance(value, origin)


def _described(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if origin is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return _NAMES.get(origin) or str(origin.__name__)
