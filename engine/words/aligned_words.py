"""The forced aligner's text rules: what counts as a word in each language, and how predicted times are put in order.

The rules are those of the qwen-asr package 0.0.6, except that Korean is tokenised without that package's dictionary, as
in transformers.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import ConfigError

_IDEOGRAPH = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf"
)
_IDEOGRAPH_OR_RUN = re.compile(f"[{_IDEOGRAPH}]|[^{_IDEOGRAPH}]+")
_SHORT_RUN = 2  # longest run of times out of order that take a neighbour's value; longer ones are interpolated


def alignment_words(text: str, language: str) -> list[str]:
    """The words of `text` that get times, without punctuation. Each ideograph is a word.

    Args:
        language: an English name. "Japanese" and "Korean" have their own rules; all other languages share one.

    Raises:
        ConfigError: the package that tokenises Japanese or Korean is not installed.
    """
    cut = _CUTTERS.get(language.lower(), _by_space)
    return [word for word in map(_kept, cut(text)) if word]


def spans_in(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """[start, end) of each word in the text that it comes from, in characters.

    alignment_words() drops characters but keeps their order, so each word's characters are found in order.
    """
    spans, position = [], 0
    for word in words:
        start = position = text.index(word[0], position)
        for character in word:
            position = text.index(character, position) + 1
        spans.append((start, position))
    return spans


def in_order(times: Sequence[int]) -> list[int]:
    """Make times non-decreasing: the longest non-decreasing subsequence stays, and all others are replaced.

    One or two adjacent times take the value of the nearer neighbour in that subsequence. Longer runs are interpolated
    linearly. A run at either end takes the value of its only neighbour.
    """
    kept = _longest_ascent(times)
    fixed = list(times)
    bounds = [-1, *kept, len(times)]
    for left, right in pairwise(bounds):
        count = right - left - 1
        for step in range(1, count + 1):
            if left < 0 or right == len(times):
                fixed[left + step] = times[right if left < 0 else left]
            elif count <= _SHORT_RUN:
                fixed[left + step] = times[left if step <= count + 1 - step else right]
            else:
                fixed[left + step] = int(times[left] + (times[right] - times[left]) / (count + 1) * step)
    return fixed


def _longest_ascent(times: Sequence[int]) -> list[int]:
    """Indices of the longest non-decreasing subsequence; of several, the first to reach that length."""
    values = np.asarray(times)
    lengths = np.ones(len(values), dtype=np.int64)
    previous = np.full(len(values), -1)
    for i in range(1, len(values)):
        reachable = np.where(values[:i] <= values[i], lengths[:i], 0)
        best = int(reachable.argmax())
        if reachable[best]:
            lengths[i], previous[i] = reachable[best] + 1, best
    chain, index = [], int(lengths.argmax()) if len(values) else -1
    while index >= 0:
        chain.append(index)
        index = int(previous[index])
    return chain[::-1]


def _by_space(text: str) -> list[str]:
    """Split at spaces, and around each ideograph."""
    return [piece for word in text.split() for piece in _IDEOGRAPH_OR_RUN.findall(_kept(word))]


def _japanese(text: str) -> list[str]:
    words: list[str] = _imported("nagisa", "Japanese").tagging(text).words
    return words


def _korean(text: str) -> list[str]:
    words: list[str] = _imported("soynlp.tokenizer", "Korean").LTokenizer().tokenize(text)
    return words


_CUTTERS: dict[str, Callable[[str], list[str]]] = {"japanese": _japanese, "korean": _korean}


def _imported(module: str, language: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"word times of {language} need {package}, which is not installed: pip install {package}"
        ) from error


def _kept(word: str) -> str:
    """The letters, numbers and apostrophes of a word."""
    return "".join(c for c in word if c == "'" or unicodedata.category(c)[0] in "LN")
