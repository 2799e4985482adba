"""Thousands of hotwords: which of a long list a clip's CTC head has heard something like.

    hotwords          -> HotwordList: the CTC tokens of each, as the word is said        (once a list)
    HeardFrames + it  -> HotwordList.heard(): the few that go into the clip's prompt     (every clip)

A prompt holds some twenty hotwords well and thousands not at all. Of those that are picked, because they sound like
something in the clip and so like each other, it holds fewer; the longer the clip, the more names it may hold.

A word that the LLM is to spell in a rare way is heard by the head in another spelling, so the head's text does not
help. But the head gives the rare tokens some probability where the word is said. A hotword's score is the likelihood
ratio of its best path through the clip's frames and of the likeliest tokens of the same frames, in logarithms, averaged
over its tokens. So 0 is a word that is heard as it is written. A token and a frame between two of them each count at
least UNHEARD, so low that "Jeffrey Lee" does not win over "Geoffrey" because one half of it is heard well.

The search runs only over the words whose tokens are heard best in any order, which is a bound of the score. To filter
hotwords by what a CTC head hears before an LLM is prompted is the idea of Yang et al., "CTC-assisted LLM-based
contextual ASR" (2024); they compare with the head's best text, by edit distance.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .split import split_words, spoken_form
from .tokenizer import CTCTokenizer

MAX_HOTWORDS_IN_PROMPT = 20  # so many are given whole, and so many are picked at most
LEAST_PICKED, PICKED_A_SECOND = 4, 1  # words that sound alike confuse the LLM: see demos/micro/README.md
UNHEARD = -20.0  # log-ratio of a token that is not heard at all
SURE_BLANK = 7.0  # by which log-ratio a frame in which nothing is said shows no other token
LEAST_SCORE = -10.0  # of a word that is heard: half of its tokens may be missing
_MOST_SEARCHED = 128  # hotwords, of those whose tokens are heard best in any order
_MOST_TOKENS = 32  # of a hotword; a longer one is known by its beginning
_KEPT_LISTS = 8

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class HeardFrames(NamedTuple):
    """The frames of a clip that may hold a token, as log-ratios to the likeliest token of each."""

    tokens: FloatArray  # (F, K) of the K tokens of a HotwordList, its `token_ids`
    blank: FloatArray  # (F,)


class HotwordList:
    """A list of hotwords as a CTC head may emit them."""

    def __init__(self, hotwords: Sequence[str], tokenizer: CTCTokenizer) -> None:
        self._words = tuple(dict.fromkeys(hotwords))
        forms = [(place, ids) for place, word in enumerate(self._words) for ids in _forms(word, tokenizer)]
        self._word_of_form = np.array([place for place, _ in forms], np.int64)
        self._num_tokens = np.array([len(ids) for _, ids in forms], np.int64)
        flat = np.array([token for _, ids in forms for token in ids], np.int64)
        self.token_ids: IntArray  # (K,) the distinct ones
        self.token_ids, columns = np.unique(flat, return_inverse=True)
        self._columns: IntArray = columns.reshape(-1)  # of all forms, one after the other
        self._starts = self._num_tokens.cumsum() - self._num_tokens  # of each form in them

    def heard(self, frames: HeardFrames, most: int) -> tuple[str, ...]:
        """At most `most` hotwords that are heard, in the order of the list."""
        if not len(frames.blank) or not len(self._starts):
            return ()
        tokens = frames.tokens.clip(min=UNHEARD)
        totals = np.add.reduceat(tokens.max(0)[self._columns], self._starts)
        bound = np.asarray(totals / self._num_tokens, np.float32)
        searched = _best(bound, _MOST_SEARCHED)
        searched = searched[bound[searched] > LEAST_SCORE]
        if not len(searched):
            return ()
        scores = self._search(tokens, frames.blank.clip(min=UNHEARD), searched)
        of_words = np.full(len(self._words), -np.inf, np.float32)
        np.maximum.at(of_words, self._word_of_form[searched], scores)
        chosen = _best(of_words, most)
        return tuple(self._words[place] for place in np.sort(chosen[of_words[chosen] > LEAST_SCORE]))

    def _search(self, tokens: FloatArray, gaps: FloatArray, forms: IntArray) -> FloatArray:
        """The scores of these forms: of their tokens in order, each in a frame of its own, gaps between them."""
        num_tokens, starts = self._num_tokens[forms], self._starts[forms]
        before = np.concatenate([[0.0], gaps.cumsum()]).astype(np.float32)[:, None]  # of all frames before this one
        path = tokens[:, self._columns[starts]]  # (F, forms), of the best path whose last token is in this frame
        scores = path.max(0)
        for step in range(1, int(num_tokens.max())):
            previous, here = (self._columns[starts + np.minimum(at, num_tokens - 1)] for at in (step - 1, step))
            # Before frame t the best path so far, with the gap up to there; between two equal tokens lies a gap.
            reached = np.full_like(path, -np.inf)
            reached[1:] = np.maximum.accumulate(path - before[1:], axis=0)[:-1] + before[1:-1]
            again = previous == here
            reached[1:, again] = reached[:-1, again] + gaps[:-1, None]
            path = reached + tokens[:, here]
            scores = np.where(num_tokens > step, path.max(0), scores)
        return np.asarray(scores / num_tokens, np.float32)


def most_picked(duration_s: float) -> int:
    """How many hotwords of a long list are picked for a clip at most."""
    return min(MAX_HOTWORDS_IN_PROMPT, LEAST_PICKED + int(PICKED_A_SECOND * duration_s))


class HotwordLists:
    """The lists that were used last, each tokenised once."""

    def __init__(self, tokenizer: CTCTokenizer) -> None:
        self._tokenizer = tokenizer
        self._kept: OrderedDict[tuple[str, ...], HotwordList] = OrderedDict()

    def __getitem__(self, hotwords: tuple[str, ...]) -> HotwordList:
        found = self._kept.pop(hotwords, None) or HotwordList(hotwords, self._tokenizer)
        self._kept[hotwords] = found
        if len(self._kept) > _KEPT_LISTS:
            self._kept.popitem(last=False)
        return found


def _forms(hotword: str, tokenizer: CTCTokenizer) -> list[list[int]]:
    """CTC tokens of a hotword as it is said: within a sentence and, where a space parts words, at its beginning.

    Numerals are said in words that the text does not show; they count only where there is nothing else.
    """
    words = split_words(hotword)
    words = [word for word in words if not word.has_numerals] or words
    if not words:
        return []
    said = spoken_form(hotword, words)[0]
    texts = [said] if words[0].is_character else [f" {said}", said]
    return [tokenizer.encode(text)[:_MOST_TOKENS] for text in texts]


def _best(scores: FloatArray, count: int) -> IntArray:
    """Places of the highest scores, in no order; of equal ones, any."""
    if len(scores) <= count:
        return np.arange(len(scores))
    return np.argpartition(-scores, count)[:count]
