"""Names of persons and the other spellings that sound the same."""

import itertools
import random
from collections.abc import Sequence

import english
import mandarin
from grammar import Language

# Phrases with another that sounds almost the same, which only a hotword can ask for.
PHRASES = {"开饭时间": "开放时间"}

_ENGLISH = {name: other for table in (english.FIRST_NAMES, english.SURNAMES) for name, other in table.items()}
_CHARACTERS = {name: other for table in (mandarin.SURNAMES, mandarin.GIVEN_NAMES) for name, other in table.items()}
_OTHERS = _ENGLISH | _CHARACTERS
_USUAL = {other: name for name, other in _OTHERS.items() if other}


def sound(name: str) -> tuple[str, ...]:
    """Equal for names that sound the same: each word or character in its usual spelling."""
    return tuple(_USUAL.get(part, part) for part in _parts(name))


def spellings(name: str) -> list[str]:
    """All ways to write the name, the usual one first."""
    options = [[part, other] if (other := _OTHERS.get(part)) else [part] for part in sound(name)]
    joiner = " " if name.isascii() else ""
    return [joiner.join(parts) for parts in itertools.product(*options)]


def is_heard_in(hotword: str, name: str) -> bool:
    """Whether the hotword's sound is the name's or a part of it."""
    part, whole = sound(hotword), sound(name)
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def draw_name(language: Language, rng: random.Random) -> str:
    """A name in any spelling."""
    if language == "英文":
        first, surname = rng.choice(list(english.FIRST_NAMES)), rng.choice(list(english.SURNAMES))
        name = rng.choice((f"{first} {surname}", f"{first} {surname}", first, surname))
    else:
        given = rng.sample(list(mandarin.GIVEN_NAMES), rng.choice((1, 1, 2)))
        name = rng.choice(list(mandarin.SURNAMES)) + "".join(given)
    return rng.choice(spellings(name))


def draw_similar_name(name: str, rng: random.Random) -> str:
    """Another name that shares a part with `name`, in any spelling: the hardest to tell apart."""
    language: Language = "英文" if name.isascii() else "中文"
    other, parts = list(sound(draw_name(language, rng))), sound(name)
    place = rng.randrange(min(len(other), len(parts)))
    if language == "英文" and len(parts) == 2:
        other = [rng.choice(list(english.FIRST_NAMES)), rng.choice(list(english.SURNAMES))]
        place = rng.randrange(2)
    other[place] = parts[place]
    return rng.choice(spellings((" " if language == "英文" else "").join(other)))


def draw_nearest_name(name: str, rng: random.Random) -> str:
    """A name that begins with `name`, or, where that is a long one, has all of its parts but one.

    These are what a look-up takes for it most easily: only at the name's end does it hear that more should have come.
    """
    parts, joiner, tables = list(sound(name)), "", (mandarin.SURNAMES, mandarin.GIVEN_NAMES, mandarin.GIVEN_NAMES)
    if name.isascii():
        joiner, tables = " ", (english.FIRST_NAMES, english.SURNAMES)
    place = len(parts) if len(parts) < len(tables) else rng.randrange(len(parts))
    parts[place : place + 1] = [rng.choice([other for other in tables[place] if other not in parts])]
    return rng.choice(spellings(joiner.join(parts)))


def respell(text: str, old: str, hotword: str) -> str:
    """`text` with the name `old` (usual spelling) written as the hotword, which may be a part of it, says."""
    return text.replace(old, _with_part(old, hotword))


def _with_part(name: str, hotword: str) -> str:
    whole, part = list(_parts(name)), _parts(hotword)
    sounds = sound(name)
    for start in range(len(whole) - len(part) + 1):
        if sounds[start : start + len(part)] == sound(hotword):
            whole[start : start + len(part)] = part
            break
    return (" " if name.isascii() else "").join(whole)


def _parts(name: str) -> Sequence[str]:
    return name.split() if name.isascii() else name
