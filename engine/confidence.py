"""How sure each word is: the geometric mean of the LLM's probability of writing it and the CTC head's of hearing it.

Neither alone says enough: an LLM is sure of a fluent sentence that nobody spoke, a CTC head is unsure of words that it
spells in another way. On held-out clips the mean tells right words from wrong ones better than each (area under the
ROC curve 0.97, against 0.81 and 0.95) and is the best calibrated without a parameter (demos/micro/evaluate_trust.py).
A text is as sure as its words are on average.
"""

import bisect
import itertools
import math
from collections.abc import Sequence

from .decoder.base import Hypothesis
from .text import LLMTokenizer
from .transcript import Word

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
        both = math.exp((log_prob + math.log(max(word.confidence, _LEAST_PROB))) / 2)
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
