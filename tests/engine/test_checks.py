"""How options are checked: what each annotation takes, and what a refusal says."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

import numpy as np
import pytest

from twostage_asr.engine.checks import (
    argument_names,
    check_arguments,
    check_choice,
    check_options,
    check_text,
    check_type,
    checked_texts,
    refuse_unknown,
    say_unused,
)
from twostage_asr.engine.errors import ConfigError

FITS: list[tuple[Any, list[Any], list[Any]]] = [  # annotation, what it takes, what it refuses
    (int, [0, -1, np.int64(3)], [True, 1.0, "1", None]),
    (float, [0, 0.5, np.float32(0.5)], [True, "0.5", None, 1j]),
    (bool, [True, False, 0, 1, np.bool_(True)], [2, -1, 1.0, "yes", None]),
    (str, ["", "a"], [b"a", 1, None]),
    (Iterable[str], [[], ("a",), {"a"}, iter("a")], ["a", b"a", 1, None]),
    (Mapping[str, int], [{}], [[], None]),
    (Literal["mix", 1], ["mix", 1], ["split", 2, None]),
    (int | None, [1, None], ["", 1.5]),
]


@pytest.mark.parametrize(("hint", "taken", "refused"), FITS)
def test_what_an_annotation_takes(hint: Any, taken: list[Any], refused: list[Any]) -> None:
    for value in taken:
        check_type("x", value, hint)
    for value in refused:
        with pytest.raises(ConfigError, match=r"^x must be "):
            check_type("x", value, hint)


def test_a_refusal_names_what_is_allowed_and_what_was_given() -> None:
    with pytest.raises(ConfigError, match=r"^seed must be a whole number or None; got 1\.5$"):
        check_type("seed", 1.5, int | None)
    with pytest.raises(ConfigError, match=r"^how must be one of 'a', 'b' or True or False; got 7$"):
        check_type("how", 7, Literal["a", "b"] | bool)
    with pytest.raises(ConfigError, match=r"^how must be one of 'a', None; got 'b'$"):
        check_choice("how", "b", ("a", None))


def test_arguments_are_checked_by_their_function() -> None:
    def call(text: str, *, count: int = 1) -> None:
        """Never called."""

    check_arguments(call, text="a", count=2)
    with pytest.raises(ConfigError, match="count must be a whole number; got 'b'"):
        check_arguments(call, text="a", count="b")


class _Options(TypedDict, total=False):
    hotwords: list[str]
    seed: int


def test_an_unknown_keyword_names_a_near_one_if_there_is_one() -> None:
    check_options({"seed": 1}, _Options)
    known = "known: inputs, hotwords, seed$"
    with pytest.raises(ConfigError, match=rf"^unknown argument 'hotword' \(did you mean 'hotwords'\?\); {known}"):
        check_options({"hotword": "a"}, _Options, others=("inputs",))
    with pytest.raises(ConfigError, match=rf"^unknown argument 'a'; unknown argument 'zz'; {known}"):
        refuse_unknown({"zz", "a"}, ["inputs", "hotwords", "seed"])
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        check_options({"seed": "1"}, _Options)


def test_half_a_character_is_refused_with_its_place() -> None:
    check_text("prompt", "𠮷")
    with pytest.raises(ConfigError, match=r"prompt holds U\+D842 at position 2: half of a surrogate pair"):
        check_text("prompt", "ab\ud842")
    with pytest.raises(ConfigError, match="prompt must be a string, got bytes"):
        check_text("prompt", b"a")


def test_one_text_or_many() -> None:
    assert checked_texts("context", "a") == ["a"]
    assert checked_texts("context", None) == [None]
    assert checked_texts("context", ("a", None)) == ["a", None]
    with pytest.raises(ConfigError, match="each context must be a string or None; got 1"):
        checked_texts("context", ["a", 1])


def test_what_another_package_needs_and_this_one_does_not_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        say_unused(gpu=None, threads=0)
    assert caplog.messages == ["threads=0 has no effect: this engine chooses for itself"]


def test_arguments_that_have_names() -> None:
    def call(self: object, first: int, *rest: int, key: int = 0, **others: int) -> None:
        """Never called."""

    assert argument_names(call) == ["first", "key"]
