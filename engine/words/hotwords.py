"""Thousands of hotwords: picks those of a long list that the CTC head's output supports in a clip.

    hotwords          -> HotwordList: the CTC tokens of each hotword's spoken form           (once per list)
    HeardFrames + it  -> HotwordList.heard(): the few that go into the clip's prompt         (for every clip)

An LLM uses about twenty hotwords in a prompt well, and thousands not at all. Picked hotwords sound like something in
the clip and therefore like each other, which confuses the LLM, so fewer of them are given. A longer clip may contain
more names and gets more.

The head's greedy text does not show a name with a rare spelling, because the head prefers a common spelling. But it
gives the rare tokens some probability in the frames where the name is spoken. A hotword's score is the log-likelihood
ratio between its best path through the clip's frames and the likeliest tokens of the same frames, averaged over its
tokens. The score is 0 if the head's greedy text contains the word. Each token, and each frame between two tokens,
contributes no less than UNHEARD. This floor is so low that "Jeffrey Lee" does not beat "Geoffrey" by one half of it.

The search runs only over the hotwords with the highest score in any order of their tokens, which is an upper bound of
the score. Yang et al., "CTC-assisted LLM-based contextual ASR" (2024), also filter hotwords by a CTC head before they
prompt an LLM; they compare hotwords with the head's greedy text by edit distance.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .split import split_words, spoken_form
from .tokenizer import CTCTokenizer

MAX_HOTWORDS_IN_PROMPT = 20  # a list of at most 20 is given whole; of a longer one, at most 20 are picked
LEAST_PICKED, PICKED_A_SECOND = 4, 1  # words that sound alike confuse the LLM: see demos/micro/README.md
UNHEARD = -20.0  # lowest log-ratio of a token to the likeliest token of its frame
SURE_BLANK = 7.0  # a frame whose blank exceeds all other tokens by this log-ratio is skipped
LEAST_SCORE = -10.0  # lowest score of a picked hotword: half of its tokens may be missing
_MOST_SEARCHED = 128  # forms of hotwords, those with the highest bounds
_MOST_TOKENS = 32  # of a hotword; only the beginning of a longer one is searched
_KEPT_LISTS = 8

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class HeardFrames(NamedTuple):
    """The F frames of a clip that may emit a token, as log-ratios to the likeliest token of each frame."""

    tokens: FloatArray  # (F, K) of the K tokens in HotwordList.token_ids
    blank: FloatArray  # (F,)


class HotwordList:
    """A list of hotwords with the token sequences ("forms") in which a CTC head may emit each of them."""

    def __init__(self, hotwords: Sequence[str], tokenizer: CTCTokenizer) -> None:
        self._words = tuple(dict.fromkeys(hotwords))
        forms = [(place, ids) for place, word in enumerate(self._words) for ids in _forms(word, tokenizer)]
        self._word_of_form = np.array([place for place, _ in forms], np.int64)
        self._num_tokens = np.array([len(ids) for _, ids in forms], np.int64)
        flat = np.array([token for _, ids in forms for token in ids], np.int64)
        self.token_ids: IntArray  # (K,) the distinct tokens of all forms
        self.token_ids, columns = np.unique(flat, return_inverse=True)
        self._columns: IntArray = columns.reshape(-1)  # indices into `token_ids` of all forms, concatenated
        self._starts = self._num_tokens.cumsum() - self._num_tokens  # where each form begins in `_columns`

    def heard(self, frames: HeardFrames, most: int) -> tuple[str, ...]:
        """At most `most` hotwords whose score exceeds LEAST_SCORE, the best ones, in the order of the list."""
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
        """Score these forms: their tokens in order, each in its own frame, with blank frames between them.

        Args:
            tokens: (F, K), see HeardFrames, not below UNHEARD.
            gaps: (F,), the same for blank.
            forms: indices of the forms.
        """
        num_tokens, starts = self._num_tokens[forms], self._starts[forms]
        before = np.concatenate([[0.0], gaps.cumsum()]).astype(np.float32)[:, None]  # sum of the gaps before a frame
        path = tokens[:, self._columns[starts]]  # (F, forms), score of the best path that emits its last token here
        scores = path.max(0)
        for step in range(1, int(num_tokens.max())):
            previous, here = (self._columns[starts + np.minimum(at, num_tokens - 1)] for at in (step - 1, step))
            # The best path before frame t with the gap up to t. Between two equal tokens at least one frame is blank.
            reached = np.full_like(path, -np.inf)
            reached[1:] = np.maximum.accumulate(path - before[1:], axis=0)[:-1] + before[1:-1]
            again = previous == here
            reached[1:, again] = reached[:-1, again] + gaps[:-1, None]
            path = reached + tokens[:, here]
            scores = np.where(num_tokens > step, path.max(0), scores)
        return np.asarray(scores / num_tokens, np.float32)


def most_picked(duration_s: float) -> int:
    """The most hotwords of a long list that are picked for a clip."""
    return min(MAX_HOTWORDS_IN_PROMPT, LEAST_PICKED + int(PICKED_A_SECOND * duration_s))


class HotwordLists:
    """A cache of the hotword lists used most recently, each tokenised once."""

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
    """CTC tokens of a hotword's spoken form, after a space and, in scripts with spaces, also at a sentence's beginning.

    Numerals are spoken in words that the text does not show, so they are used only if the hotword has nothing else.
    """
    words = split_words(hotword)
    words = [word for word in words if not word.has_numerals] or words
    if not words:
        return []
    said = spoken_form(hotword, words)[0]
    texts = [said] if words[0].is_character else [f" {said}", said]
    return [tokenizer.encode(text)[:_MOST_TOKENS] for text in texts]


def _best(scores: FloatArray, count: int) -> IntArray:
    """Indices of the `count` highest scores, in no particular order; ties are broken arbitrarily."""
    if len(scores) <= count:
        return np.arange(len(scores))
    return np.argpartition(-scores, count)[:count]
