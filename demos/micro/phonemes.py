"""Sentences -> the ids of Kokoro's phonemes. Needs kokoro-onnx for English and misaki[zh] for Mandarin.

Speech that the recogniser does not know is made here too: random words of the phonemisers' dictionaries.
"""

import json
import random
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import accumulate
from typing import Any

from accents import Accent
from english import WORDS, number_words
from everyday import ENGLISH_SAYINGS
from grammar import Language, Sentence
from mandarin import CHARACTERS, read_characters

SPACE = 16  # Kokoro's id of " "
_LETTER_A = "ˈeɪ"
_AM = "ˈeɪˈɛm"  # in times of day
_NUMBERS = frozenset(word for value in range(60) for word in number_words(value).split())
_READINGS = {"lives": "lˈɪvz", "close": "klˈoʊz"}  # as verbs, which they are in all sentences
_MOST_PHONEMES = 120
_KNOWN_SHARE = 0.3  # of the English words in speech that is unknown as a whole


_USUAL = Accent()


def phonemes(sentence: Sentence, accent: Accent = _USUAL) -> list[list[int]] | None:
    """Ids of each word's phonemes, the space before it included; None where a word has none.

    `accent` is that of English words.
    """
    if sentence.language == "英文":
        return _checked(_english_phonemes(sentence.words, accent))
    return _checked(_mandarin_phonemes(sentence.spoken, read_characters(sentence.spoken)))


def _checked(words: list[list[int]]) -> list[list[int]] | None:
    return words if all(words) and sum(map(len, words)) <= _MOST_PHONEMES else None


def _english_phonemes(words: tuple[str, ...], accent: Accent = _USUAL) -> list[list[int]]:
    tokenizer, _, _ = _phonemisers()
    is_spelled = all(len(word) == 1 for word in words)
    groups = [] if is_spelled else _say(" ".join(words), accent.reading).split()
    if len(groups) != len(words):  # run together, "in the", or letters, of which each is said alone
        groups = [
            _LETTER_A if is_spelled and word == "a" else _say(word, accent.reading).replace(" ", "") for word in words
        ]
    groups = [as_verb_or_time(*each) for each in zip(("", *words), words, groups, strict=False)]
    return [
        ([SPACE] if place else []) + [int(token) for token in tokenizer.tokenize(accent.apply(group))]
        for place, group in enumerate(groups)
    ]


def as_verb_or_time(before: str, word: str, group: str) -> str:
    """The word's phonemes, where the phonemiser does not see that it is a verb or, after a number, a time of day."""
    return _AM if word == "am" and before in _NUMBERS else _READINGS.get(word, group)


def _mandarin_phonemes(text: str, readings: Sequence[str]) -> list[list[int]]:
    """`readings` is the numbered pinyin of each character; words are set off as jieba finds them."""
    tokenizer, jieba, zh = _phonemisers()
    starts = {0, *accumulate(map(len, jieba.lcut(text)))}
    words: list[list[int]] = []
    for place, reading in enumerate(readings):
        sound = zh.ZHG2P.py2ipa(reading).replace(chr(815), "")
        gap = [SPACE] if place and place in starts else []
        words.append(gap + [int(token) for token in tokenizer.tokenize(sound)])
    assert len(words) == len(text), text
    return words


def unknown_phonemes(language: Language, rng: random.Random) -> list[list[int]] | None:
    """One to eight words, most of them in no sentence of the grammars, as `phonemes` gives them."""
    count = rng.randrange(1, 9)
    if language == "英文":
        known, strange = _english_words()
        words = [rng.choice(known if count > 1 and rng.random() < _KNOWN_SHARE else strange) for _ in range(count)]
        return _checked(_english_phonemes(tuple(words)))
    words, weights = _mandarin_words()
    text = "".join(rng.choices(words, weights, k=count))
    if 2 * sum(character in CHARACTERS for character in text) > len(text):
        return None
    return _checked(_mandarin_phonemes(text, _usual_readings(text)))


def _usual_readings(text: str) -> list[str]:
    from pypinyin import Style, lazy_pinyin

    words = _phonemisers()[1].lcut(text)
    return [sound for word in words for sound in lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True)]


@cache
def _english_words() -> tuple[list[str], list[str]]:
    """Words that the grammars have, and others."""
    known = {word.lower() for word in WORDS} | set(" ".join(ENGLISH_SAYINGS).split())
    dictionary = json.loads(resources.files("misaki.data").joinpath("us_gold.json").read_text("utf-8"))
    strange = [word for word in dictionary if word.isascii() and word.isalpha() and word.islower() and len(word) > 2]
    return sorted(known), sorted(set(strange) - known)


@cache
def _mandarin_words() -> tuple[list[str], list[float]]:
    """Words of the dictionary, and how often to draw each: the square root of how often it is used."""
    _, jieba, _ = _phonemisers()
    jieba.initialize()
    counts = {
        word: count for word, count in jieba.dt.FREQ.items() if count and all("一" <= each <= "鿿" for each in word)
    }
    return list(counts), [count**0.5 for count in counts.values()]


@cache
def _phonemisers() -> tuple[Any, Any, Any]:
    import jieba
    from kokoro_onnx.tokenizer import Tokenizer
    from misaki import zh

    return Tokenizer(), jieba, zh


@cache
def _say(text: str, reading: str) -> str:
    return str(_phonemisers()[0].phonemize(text, reading))
