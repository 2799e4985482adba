"""The text of a transcript -> its words, the units that get times.

    split_words("把音量调到25%，OK?")  ->  把 音 量 调 到 25% OK

A word is
- one character, with its combining marks, of a script without spaces in which each character is a unit of speech
  (Chinese characters, kana, bopomofo);
- in all other scripts, a run of letters, digits and marks. Korean is split at its spaces. Thai, Lao, Khmer and Burmese
  can be split into words only with a dictionary, so a run there is a whole phrase between spaces.
A run includes signs that are spoken or that join its parts: don't, e-mail, 3.14, 1,000, 10:30, 20%, $3.50, -5, R&D. A
spoken sign between spaces is its own word (3 + 4 = 7). Punctuation, spaces, emoji and all other characters are not
part of words.

The words are substrings of the text in order, and no letter, digit or spoken sign lies between them. So the text can be
rebuilt around its words: `split_words` of the same text returns the same words with their positions.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class WrittenWord(NamedTuple):
    """A word, text[start:end] of its text; positions count characters."""

    text: str
    start: int
    end: int
    is_character: bool  # a character of a script that is split by character, without spaces between words
    has_numerals: bool  # contains digits or signs, which are spoken in words that the text does not show


def split_words(text: str) -> list[WrittenWord]:
    """The words of `text` in order; the module's docstring defines what a word is."""
    classes = text.translate(_CLASS_OF)
    is_plain = _NUMERALS.isdisjoint(classes)
    words = []
    for place in _WORD.finditer(classes):
        start, end = place.span()
        has_numerals = not (is_plain or _NUMERALS.isdisjoint(place[0]))
        words.append(WrittenWord(text[start:end], start, end, place.lastgroup == "character", has_numerals))
    return words


def spoken_form(text: str, words: Sequence[WrittenWord]) -> tuple[str, list[tuple[int, int]]]:
    """The words in the form that a CTC head emits: lower case, without signs and full-width forms.

    Spoken signs are left out too, because they may be spoken in another order than they are written ("$20"). Two words
    are separated by a space if `text` has one between them, or if both belong to scripts that need spaces.

    Returns:
        The spoken form, and [start, end) of each word in it, in bytes of UTF-8. No word is empty.
    """
    pieces: list[str] = []
    places: list[tuple[int, int]] = []
    size = 0
    for i, word in enumerate(words):
        if i and _needs_space(text, words[i - 1], word):
            pieces.append(" ")
            size += 1
        pieces.append(spoken_word(word.text))
        places.append((size, size + len(pieces[-1].encode())))
        size = places[-1][1]
    return "".join(pieces), places


def _needs_space(text: str, previous: WrittenWord, word: WrittenWord) -> bool:
    between = text[previous.end : word.start]
    has_space = between.isspace() or any(map(str.isspace, between))
    return has_space or not (previous.is_character or word.is_character)


@lru_cache(maxsize=65_536)
def spoken_word(written: str) -> str:
    """The spoken form of one word; see spoken_form()."""
    if written.isascii() and written.isalpha():
        return written.lower()
    text = unicodedata.normalize("NFKC", written).lower().replace("’", "'").replace(",", "")
    text = _THOUSANDS.sub("0", text)
    kept = (c if k in _SAID or c == "'" else " " for c, k in zip(text, text.translate(_CLASS_OF), strict=True))
    return " ".join("".join(kept).split()) or text


# Each character is mapped to one class character, so a pattern over the string of classes finds the words' positions.
_CHARACTER = "C"  # a character of a script that is split by character
_LETTER = "L"
_DIGIT = "D"
_MARK = "M"  # modifies the character before it, or joins it to the next one
_SPOKEN = "S"  # a sign that is read aloud
_HYPHEN = "H"
_BINDER = "B"  # joins letters and digits on both sides
_NUMBER_BINDER = "N"  # joins digits only
_OTHER = " "
_NUMERALS = {_DIGIT, _SPOKEN}
_SAID = _CHARACTER + _LETTER + _DIGIT + _MARK

_SIGNS = {
    **dict.fromkeys("%‰％&＆@＠#＃№°℃℉+＋−×÷=＝±", _SPOKEN),
    **dict.fromkeys("-‐‑－", _HYPHEN),
    **dict.fromkeys("'’＇._/·．", _BINDER),
    **dict.fromkeys(",:–：", _NUMBER_BINDER),
    **dict.fromkeys("\u200c\u200d", _MARK),  # zero width (non-)joiner
    **dict.fromkeys("々〆〇ー", _CHARACTER),
    **dict.fromkeys("\uff9e\uff9f", _MARK),  # half-width (semi-)voiced sound marks
}
_CHARACTER_RANGES = (
    (0x3041, 0x3096),  # Hiragana
    (0x309D, 0x309F),
    (0x30A1, 0x30FA),  # Katakana
    (0x30FD, 0x30FF),
    (0x3105, 0x312F),  # Bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),  # Katakana, small
    (0x3400, 0x4DBF),  # Chinese characters, extension A
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),  # Katakana, half-width
    (0x1AFF0, 0x1B16F),  # Kana, supplements
    (0x20000, 0x3FFFF),  # Chinese characters, extensions B and later
)

# Three zeros at the end of a number are spoken as one word (thousand, million, ...), so one zero stands for them.
_THOUSANDS = re.compile(r"(?<=[0-9])000(?=(?:000)*(?![0-9]))")
_WORD = re.compile(
    r"""(?P<character> C M*)
      | (?: (?<![CLDSM]) H (?=D) )?          # a minus sign
        [LDS] M*
        (?: [LDS] M*                         # what is spoken,
          | (?<=[LDM]) [HB] (?=[LD])         # what binds it,
          | (?<=D) N (?=D) )*                # and what binds digits
    """,
    re.VERBOSE,
)


class _ClassOf(dict[int, str]):
    """Code point -> class, for str.translate; computed at the first use of each code point."""

    def __missing__(self, code_point: int) -> str:
        self[code_point] = _classify(code_point)
        return self[code_point]


_CLASS_OF = _ClassOf()


def _classify(code_point: int) -> str:
    character = chr(code_point)
    if character in _SIGNS:
        return _SIGNS[character]
    category = unicodedata.category(character)
    if category == "Sc":
        return _SPOKEN
    if category[0] == "L" and any(first <= code_point <= last for first, last in _CHARACTER_RANGES):
        return _CHARACTER
    return {"L": _LETTER, "N": _DIGIT, "M": _MARK}.get(category[0], _OTHER)
