"""The forced aligner's text rules against a golden file of what the qwen-asr package does."""

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine import ConfigError
from twostage_asr.engine.words.aligned_words import alignment_words, in_order, spans_in

GOLDEN = json.loads((Path(__file__).parents[1] / "families" / "qwen_asr_golden.json").read_text(encoding="utf-8"))
OF_PACKAGES = {"Japanese": "nagisa", "Korean": "soynlp"}


@pytest.mark.parametrize(("text", "language", "words", "prompt"), GOLDEN["words"])
def test_words_are_the_package_s(text: str, language: str, words: list[str], prompt: str) -> None:
    package = OF_PACKAGES.get(language)
    if package is None:
        assert alignment_words(text, language) == words
        return
    assert importlib.util.find_spec(package) is None, f"{package} is here now: compare its words"
    with pytest.raises(ConfigError, match=f"word times of {language} need {package}, .*: pip install {package}"):
        alignment_words(text, language)


@pytest.mark.parametrize(("times", "expected"), GOLDEN["timestamps"])
def test_times_are_put_in_order_as_the_package_does(times: list[int], expected: list[int]) -> None:
    assert in_order(times) == expected


@given(st.lists(st.integers(0, 5000).map(lambda k: 80 * k), max_size=60))
def test_times_never_decrease_and_what_is_in_order_stays(times: list[int]) -> None:
    fixed = in_order(times)
    assert fixed == sorted(fixed)
    assert in_order(sorted(times)) == sorted(times)


@given(st.text(max_size=60))
def test_words_are_found_in_their_text(text: str) -> None:
    words = alignment_words(text, "English")
    spans = spans_in(text, words)
    assert spans == sorted(spans)
    for word, (start, end) in zip(words, spans, strict=True):
        assert alignment_words(text[start:end], "English") == [word]


def test_a_word_s_place_holds_its_punctuation() -> None:
    text = "It's 3.14, 你好!"
    assert [text[a:b] for a, b in spans_in(text, alignment_words(text, "English"))] == ["It's", "3.14", "你", "好"]
