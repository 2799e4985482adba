"""How sure each word is: a geometric mean of the LLM's probability of writing it and the CTC head's of hearing it.

Neither alone says enough: an LLM is sure of a fluent sentence that nobody spoke, a CTC head is unsure of words that it
spells in another way. The weight of the head is the one with which the micro checkpoint tells right words from wrong
ones best (area under the ROC curve 0.988, against 0.982 for the LLM alone and 0.977 for equal weights; 11,109 words of
clips of their own, not those on which demos/micro/evaluate_trust.py is measured). A text is as sure as its words are on
average.
"""

import bisect
import itertools
import math
from collections.abc import Sequence

from .decoder.base import Hypothesis
from .text import LLMTokenizer
from .transcript import Word

CTC_WEIGHT = 0.05  # of 0, 0.05, 0.1, 0.15 ... 1
_LEAST_PROB = 1e-12


def combined(words: Sequence[Word], pieces: Sequence[str], log_probs: Sequence[float]) -> tuple[Word, ...]:
    """Words with the confidence of their CTC head -> with that of both.

    Args:
        pieces: what the LLM wrote, token by token.
        log_probs: natural logarithms of the tokens' probabilities.

    A word that is not found in the pieces keeps what it has.
    """
    written = "".join(pieces)
    ends = list(itertools.accumulate(map(len, pieces)))
    totals = [0.0, *itertools.accumulate(log_probs)]
    found = []
    position = 0
    for word in words:
        start = written.find(word.text, position)
        if start < 0:
            found.append(word)
            continue
        position = start + len(word.text)
        first, last = bisect.bisect_right(ends, start), bisect.bisect_right(ends, position - 1)
        log_prob = totals[last + 1] - totals[first]
        heard = math.log(max(word.confidence, _LEAST_PROB))
        both = math.exp((1 - CTC_WEIGHT) * log_prob + CTC_WEIGHT * heard)
        found.append(Word(word.text, word.start, word.end, min(both, 1.0)))
    return tuple(found)


def token_pieces(tokenizer: LLMTokenizer, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; of the tokens that share a character's bytes, the last one has it."""
    pieces = tokenizer.decode_each(token_ids)
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


def text_confidence(hypothesis: Hypothesis, words: Sequence[Word] | None) -> float | None:
    """The mean of the words'; without words, the geometric mean of the tokens' probabilities; None without either."""
    if words:
        return sum(word.confidence for word in words) / len(words)
    if not hypothesis.log_probs:
        return None
    return math.exp(sum(hypothesis.log_probs) / len(hypothesis.log_probs))
