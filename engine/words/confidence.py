"""Word confidence: the weighted geometric mean of the LLM's probability of the word and the CTC head's.

Neither is enough alone. An LLM gives a high probability to a fluent sentence that nobody spoke, and a CTC head gives a
low one to words that it spells differently. The head's weight is the one that best separates right from wrong words of
the micro checkpoint, by the area under the ROC curve that demos/micro/evaluate_trust.py prints. The confidence of a
text is the mean of its words'.
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

CTC_WEIGHT = 0.05  # best of 0, 0.05, 0.1, 0.15 ... 1
LEAST_PROB = 1e-12


class WrittenTokens(NamedTuple):
    """The tokens of an LLM's answer."""

    pieces: Sequence[str]  # see token_pieces()
    log_probs: Sequence[float]  # natural logarithms of the tokens' probabilities


def combined(words: Sequence[str], confidences: Sequence[float], written: WrittenTokens) -> list[float]:
    """The CTC head's confidence of each word -> the combined one. A word that is not in `written` keeps its own."""
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
    """The text that each token adds. Of several tokens that share the bytes of a character, the last one gets it."""
    pieces = tokenizer.decode_each(token_ids)
    if "\N{REPLACEMENT CHARACTER}" not in "".join(pieces):
        return pieces
    begun = 0  # first of the tokens whose bytes do not yet make a whole character
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
    """The mean confidence of the words, or the geometric mean of the token probabilities; None without either."""
    if words:
        return sum(word.confidence for word in words) / len(words)
    if not hypothesis.log_probs:
        return None
    return math.exp(sum(hypothesis.log_probs) / len(hypothesis.log_probs))
