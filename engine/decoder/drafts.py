"""A draft of an answer, made from another text of the same speech: the CTC head's greedy text, or the last live text.

A decoder asks for the next few tokens, checks them in one step and keeps those that it would have written itself. So
the answer does not depend on the draft. What the draft gains depends on how well it follows the answer, and the texts
differ: a CTC head writes no punctuation, no capitals and no digits. The draft is therefore compared by its letters
alone, without case. Where the answer departs from it, the draft goes on behind the nearest place that holds the last
tokens of the answer (arXiv 2106.04970, 2304.04487). It begins sentences with a capital, and ends with a full stop and
the end token.
"""

import unicodedata
from collections.abc import Sequence

from ..text import LLMTokenizer

_REACH = 40  # letters before and behind the expected place in which the answer's last tokens are looked for
_MOST_TOKENS = 3  # of the answer that are looked for together; if they are not found, fewer
_STOPS = tuple(".?!")
_FIRST_WIDE = 0x2E80  # the scripts of East Asia, which have a full stop of their own, begin here
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Draft:
    """Follows the tokens of an answer, and proposes the next ones."""

    def __init__(self, text: str, tokenizer: LLMTokenizer) -> None:
        self._text, self._tokenizer = text.strip(), tokenizer
        places = [(letter, end) for end, char in enumerate(self._text, 1) for letter in _letters(char)]
        self._letters = "".join(letter for letter, _ in places)
        self._ends = [end for _, end in places]  # of each letter, the place in the text behind it
        self._place = 0  # number of letters that the answer has taken
        self._recent: list[str] = []  # the letters of the answer's last tokens
        self._held: list[int] = []  # tokens that end within a character
        self._before = ""  # the text of the last token
        self._expected: list[int] | None = None  # the tokens from here on, if they are known

    def propose(self, count: int, end_id: int) -> list[int]:
        """The next tokens, at most `count`; `end_id` ends the answer."""
        if self._expected is None:
            self._expected = self._tokenizer.encode(self._rest())
        return [*self._expected, end_id][:count]

    def write(self, token_ids: Sequence[int]) -> None:
        """Follow these tokens, which the answer goes on with."""
        for token_id in token_ids:
            if not self._expected or self._expected.pop(0) != token_id:
                self._expected = None
            self._held.append(token_id)
            text = self._tokenizer.decode(self._held)
            if not text.endswith(_INCOMPLETE):
                self._held.clear()
                self._before = text
                self._follow(_letters(text))

    def _follow(self, letters: str) -> None:
        if not letters:
            return  # punctuation or a space
        self._recent = [*self._recent[1 - _MOST_TOKENS :], letters]
        if self._letters.startswith(letters, self._place):
            self._place += len(letters)
            return
        self._expected = None
        for count in range(len(self._recent), 0, -1):
            if (place := self._behind("".join(self._recent[-count:]))) is not None:
                self._place = place
                return

    def _behind(self, letters: str) -> int | None:
        """The place behind these letters that is nearest to where the draft stands; None if they are not near."""
        last = self._place + _REACH
        first = self._letters.find(letters, max(0, self._place - _REACH), last)
        places = []
        while first >= 0:
            places.append(first + len(letters))
            first = self._letters.find(letters, first + 1, last)
        return min(places, key=lambda place: abs(place - self._place), default=None)

    def _rest(self) -> str:
        """The text from here on, as an answer would write it."""
        rest = self._text[self._ends[self._place - 1] :] if self._place else self._text
        is_behind_punctuation = bool(self._before) and not _letters(self._before)
        if is_behind_punctuation:
            rest = rest.lstrip("".join(filter(_is_punctuation, rest)))
        if not self._before or self._before.endswith(_STOPS):
            rest = _capitalised(rest)
        last = rest[-1:] or ("" if is_behind_punctuation else self._text[-1:])
        if not last or _is_punctuation(last):
            return rest
        return rest + ("。" if ord(last) >= _FIRST_WIDE else ".")


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] == "P"


def _letters(text: str) -> str:
    """The letters, digits and combining marks (categories L, N, M), without case."""
    return "".join(char for char in text.casefold() if unicodedata.category(char)[0] in "LMN")


def _capitalised(text: str) -> str:
    first = next((place for place, char in enumerate(text) if char.isalpha()), len(text))
    return text[:first] + text[first : first + 1].upper() + text[first + 1 :]
