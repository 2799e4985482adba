"""Sentences drawn at random from templates; the two languages are in english.py and mandarin.py.

A template is text with slots, "Set the {setting} to {number}."; a slot yields a Unit, which says how it is spoken and
how it is written with and without inverse text normalisation ("twenty five" -> "25" or "twenty five"). Names that sound
alike have a second spelling, which only a hotword can ask for.
"""

import random
import re
import string
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["英文", "中文"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of a sentence."""

    spoken: str  # English: lower-case words; Mandarin: characters
    written: str  # with inverse text normalisation
    plain: str  # without
    alternative: str | None = None  # another spelling that sounds the same
    is_name: bool = False  # of a person


_WORD = re.compile(r"[\u4e00-\u9fff]|[^\u4e00-\u9fff]+")

Slot = Callable[[random.Random], Unit]


def split_words(text: str) -> tuple[str, ...]:
    """Words of a text that is kept on few lines."""
    return tuple(text.split())


def same(text: str) -> Unit:
    """A unit that is written as it is spoken, whatever the options."""
    return Unit(spoken=text.lower(), written=text, plain=text)


def spoken_as(spoken: str, written: str, plain: str | None = None) -> Unit:
    """A number and the like; without normalisation it is written as it is spoken unless `plain` says otherwise."""
    return Unit(spoken=spoken, written=written, plain=plain or spoken)


def choice(options: str) -> Slot:
    """A slot that takes one of "a|b|c"."""
    texts = options.split("|")
    return lambda rng: same(rng.choice(texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """Units in order; the mark that ends the sentence is part of the last one's written forms."""

    language: Language
    units: tuple[Unit, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """English words and Mandarin characters, in the order in which they are said."""
        return tuple(word for run in self.spoken.split() for word in _WORD.findall(run))

    @property
    def spoken(self) -> str:
        """What is said, without punctuation; English words are set off by spaces."""
        return " ".join("".join(unit.spoken for unit in self.units).split())

    @property
    def is_held_out(self) -> bool:
        """One sentence in eight is never in training; no clip of the held-out set says another."""
        return zlib.crc32(self.spoken.encode()) % 8 == 0

    @property
    def alternative(self) -> str | None:
        """The second spelling of its name, if that has one."""
        return next((unit.alternative for unit in self.units if unit.alternative), None)

    def text(self, *, itn: bool, use_alternative: bool = False) -> str:
        """As the model should write it; `use_alternative` when a hotword asks for the second spelling."""
        text = "".join(
            unit.alternative if use_alternative and unit.alternative else unit.written if itn else unit.plain
            for unit in self.units
        )
        return text[0].upper() + text[1:]


def compose(language: Language, template: str, units: Iterable[Unit]) -> Sentence:
    """The template with its slots filled in order; a mark at its end is written, not spoken."""
    fillings = iter(units)
    parts: list[Unit] = []
    for literal, slot, _, _ in string.Formatter().parse(template):
        if literal:
            spoken = literal.rstrip(".?。？") if slot is None else literal
            parts.append(Unit(spoken=spoken.lower(), written=literal, plain=literal))
        if slot is not None:
            parts.append(next(fillings))
    return Sentence(language=language, units=tuple(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """Templates of one language, each as likely as any other, and the slots they use."""

    language: Language
    templates: tuple[str, ...]
    slots: Mapping[str, Slot]

    def draw(self, rng: random.Random) -> Sentence:
        """One sentence from one template."""
        template = rng.choice(self.templates)
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        return compose(self.language, template, [self.slots[name](rng) for name in names])


def draw_magnitude(rng: random.Random, *, least: int = 0) -> int:
    """A number below 10,000 with a random count of digits; four digits end in zero, as prices do."""
    digits = rng.choice((1, 2, 2, 2, 3, 3, 4))
    if digits == 4:
        return rng.randrange(10, 100) * 100 + rng.choice((0, rng.randrange(1, 10) * 10))
    return max(least, rng.randrange(10 ** (digits - 1), 10**digits))


def draw_digits(rng: random.Random) -> list[int]:
    """Three to five digits, as of a code or a room."""
    return [rng.randrange(10) for _ in range(rng.randrange(3, 6))]
