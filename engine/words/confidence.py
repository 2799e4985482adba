"""How sure each word is: a geometric mean of the LLM's probability of writing it and the CTC head's of hearing it.

Neither alone says enough: an LLM is sure of a fluent sentence that nobody spoke, a CTC head is unsure of words that it
spells in another way. The weight of the head is the one with which the micro checkpoint told right words from wrong
ones best, by the area under the ROC curve that demos/micro/evaluate_trust.py prints. A text is as sure as its words are
on average.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..text import LLMTokenizer
from ..transcript import Word

if TYPE_CHECKING:
    from ..decoder.base import Hypothesis

CTC_WEIGHT = 0.05  # of 0, 0.05, 0.1, 0.15 ... 1
LEAST_PROB = 1e-12


class WrittenTokens(NamedTuple):
    """What an LLM wrote, token by token."""

    pieces: Sequence[str]  # see token_pieces()
    log_probs: Sequence[float]  # natural logarithms of the tokens' probabilities


def combined(words: Sequence[str], confidences: Sequence[float], written: WrittenTokens) -> list[float]:
    """What the CTC head gives each word -> what both give it. A word that is not found keeps what it has."""
    text = "".join(written.pieces)
    ends = list(itertools.accumulate(map(len, written.pieces)))
    totals = [0.0, *itertools.accumulate(written.log_probs)]
    both = []
    position = 0
    for word, confidence in zip(words, confidences, strict=True):
        start = text.find(word, position)
        if start < 0:
            both.append(confidence)
            continue
        position = start + len(word)
        first, last = bisect.bisect_right(ends, start), bisect.bisect_right(ends, position - 1)
        log_prob = totals[last + 1] - totals[first]
        heard = math.log(max(confidence, LEAST_PROB))
        both.append(min(math.exp((1 - CTC_WEIGHT) * log_prob + CTC_WEIGHT * heard), 1.0))
    return both


def token_pieces(tokenizer: LLMTokenizer, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; of the tokens that share a character's bytes, the last one has it."""
    pieces = tokenizer.decode_each(token_ids)
    if "\N{REPLACEMENT CHARACTER}" not in "".join(pieces):
        return pieces
    begun = 0  # where the tokens begin that have not made a character yet
    for i, piece in enumerate(pieces):
        if "\N{REPLACEMENT CHARACTER}" not in piece:
            begun = i + 1
            continue
        pieces[i] = ""
        whole = tokenizer.decode(token_ids[begun : i + 1])
        if not whole.endswith("\N{REPLACEMENT CHARACTER}"):
            pieces[i], begun = whole, i + 1
    return pieces


def text_confidence(hypothesis: "Hypothesis", words: Sequence[Word] | None) -> float | None:
    """The mean of the words'; without words, the geometric mean of the tokens' probabilities; None without either."""
    if words:
        return sum(word.confidence for word in words) / len(words)
    if not hypothesis.log_probs:
        return None
    return math.exp(sum(hypothesis.log_probs) / len(hypothesis.log_probs))
