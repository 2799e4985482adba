"""English as people say it whose own language lacks some of its sounds: what is read, and what becomes of each sound.

A sentence keeps some of the English sounds, as people do: each is replaced with a chance of its own.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

READINGS = ("en-us", "en-gb")  # that the phonemiser knows
ENGLISH_VOICES, MANDARIN_VOICES = "ab", "z"  # the first letters of the names of voices that speak the language

_FOREIGN_SHARE = 0.3
_FIRST_READING_SHARE = 0.7  # of the others
_REPLACED_SHARE = 0.75  # of the sounds of one sentence


@dataclass(frozen=True, slots=True)
class Accent:
    """A reading of the phonemiser, sounds that become others, and whose manner of speaking suits them."""

    reading: str = READINGS[0]
    sounds: Mapping[str, str] = field(default_factory=dict)
    voices: str = ENGLISH_VOICES

    def apply(self, phonemes: str) -> str:
        """The phonemes as they are said with this accent; nothing is replaced twice."""
        if not self.sounds:
            return phonemes
        found = re.compile("|".join(sorted(self.sounds, key=len, reverse=True)))
        return found.sub(lambda sound: self.sounds[sound.group()], phonemes)


_Table = Mapping[str, tuple[str, ...]]
_SHORT = {"iː": ("i",), "uː": ("u",), "ɑː": ("a", "ɔ"), "ɔː": ("ɔ", "o")}
_FIVE_VOWELS = {**_SHORT, "ɪ": ("i",), "ʊ": ("u",), "æ": ("a",), "ʌ": ("a",), "ə": ("a", "e"), "ɚ": ("er", "aɾ")}
_FIVE_VOWELS |= {"ɜː": ("er", "eɾ"), "ɔ": ("o",), "ɛ": ("e",)}
# Letters of voices -> sounds and what may become of each.
_TABLES: Mapping[str, _Table] = {
    "f": {
        **_SHORT, "θ": ("s", "t", "f"), "ð": ("z", "d"), "ɹ": ("ʁ",), "h": ("",), "ɪ": ("i",), "ʊ": ("u",),
        "æ": ("a",), "ʌ": ("œ", "ɔ"), "ɚ": ("œʁ",), "ɜː": ("œʁ",), "oʊ": ("o",), "eɪ": ("e", "ɛj"), "aɪ": ("aj",),
        "tʃ": ("ʃ", "tʃ"), "dʒ": ("ʒ",), "ɾ": ("t",),
    },
    "ei": {
        **_FIVE_VOWELS, "θ": ("t", "s"), "ð": ("d",), "ɹ": ("r", "ɾ"), "z": ("s",), "v": ("b", "β"), "h": ("x",),
        "oʊ": ("o",), "eɪ": ("ej",), "ʃ": ("tʃ", "s"), "dʒ": ("j",), "ɾ": ("t",),
    },
    "ip": {
        **_FIVE_VOWELS, "θ": ("t",), "ð": ("d",), "ɹ": ("r", "ɾ"), "h": ("",), "oʊ": ("o",), "eɪ": ("ej", "e"),
        "ɾ": ("t",),
    },
    # Greek, of which there is no voice: English th-sounds, and one s-sound where English has two.
    "abe": {
        **_FIVE_VOWELS, "ɹ": ("ɾ", "r"), "h": ("x",), "ʃ": ("s",), "ʒ": ("z",), "tʃ": ("ts",), "dʒ": ("dz",),
        "oʊ": ("o",), "eɪ": ("ej",), "ɾ": ("t",),
    },
    # German and Dutch, likewise.
    "abf": {
        "θ": ("s", "t"), "ð": ("z", "d"), "w": ("v",), "ɹ": ("ʁ",), "æ": ("ɛ",), "ʌ": ("a",), "ɚ": ("ɐ",),
        "v": ("f", "v"), "dʒ": ("tʃ",), "oʊ": ("oː",), "eɪ": ("eː",), "ɾ": ("t",),
    },
    "h": {
        "θ": ("tʰ",), "ð": ("d",), "w": ("ʋ",), "v": ("ʋ",), "t": ("ʈ",), "d": ("ɖ",), "ɹ": ("ɾ", "r"), "ɾ": ("ʈ",),
        "oʊ": ("oː",), "eɪ": ("eː",), "æ": ("ɛ",), "ʌ": ("ə",),
    },
    "zj": {
        **_SHORT, "θ": ("s",), "ð": ("z", "d"), "ɹ": ("l", "ɹ"), "v": ("w", "b"), "ɪ": ("i",), "æ": ("ɛ", "a"),
        "ʌ": ("a",), "ɚ": ("ə",), "ɾ": ("t",),
    },
}  # fmt: skip


def draw_accent(rng: random.Random) -> Accent:
    """An accent of somebody who speaks English."""
    if rng.random() >= _FOREIGN_SHARE:
        return Accent(READINGS[0] if rng.random() < _FIRST_READING_SHARE else READINGS[1])
    voices = rng.choice(list(_TABLES))
    table = _TABLES[voices]
    sounds = {sound: rng.choice(others) for sound, others in table.items() if rng.random() < _REPLACED_SHARE}
    return Accent(rng.choice(READINGS), sounds, voices)
