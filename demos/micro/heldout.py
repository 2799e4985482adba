"""The held-out clips: sentences and voices that no training has, one set per thing that the checkpoint promises.

Imports no torch. A set is the same at every call and begins with every smaller one; sets are independent of each other.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import soxr
from english import ENGLISH
from espeak import SAMPLE_RATE, EspeakError, FloatArray, Synthesizer, Voice
from grammar import Grammar, Language, Sentence, Unit
from mandarin import MANDARIN
from mixed import MIXED
from names import draw_name, draw_similar_name, is_heard_in, spellings
from render import Recipe, Words, render
from sounds import coloured_noise, draw_music, hum
from voices import draw_held_out_voice
from workers import run_jobs

NUM_HOTWORDS = 20
_RUN = 16  # clips drawn one after another; runs are independent of each other
LONG_S = (15.0, 29.9)
_SLOW, _NORMAL, _FAST = (90, 112), (130, 205), (235, 275)  # words per minute


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutClip:
    """A clip as it is heard, and what should be written."""

    condition: str
    recipe: Recipe
    waveform: FloatArray  # (N,) at 16 kHz, rounded to 16 bits
    words: Words

    @property
    def name(self) -> str | None:
        """The name that the hotwords are about, as it should be written."""
        units = [unit for sentence in self.recipe.sentences for unit in sentence.units if unit.alternative]
        if not self.recipe.hotwords or not units:
            return None
        return units[0].alternative if self.recipe.use_alternative else units[0].plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How the clips of one set are drawn and what happens to their samples."""

    name: str
    grammar: Grammar | None  # None: no speech
    draw: Callable[[Grammar, random.Random, str], Recipe]
    change: Callable[[FloatArray, np.random.Generator], FloatArray] | None = None
    shortest_s: float = 0.0
    longest_s: float = 30.0


def draw_clips(condition: Condition, count: int, *, first: int = 0) -> Iterator[HeldOutClip]:
    """`count` clips of one condition, from number `first`, a multiple of _RUN, on."""
    synthesizer = Synthesizer()
    for number in range(first, first + count):
        if number % _RUN == 0:
            rng = random.Random(f"held out {condition.name} {number}")
        yield _draw_clip(synthesizer, condition, number, rng)


def _draw_clip(synthesizer: Synthesizer, condition: Condition, number: int, rng: random.Random) -> HeldOutClip:
    while True:
        recipe = condition.draw(condition.grammar or ENGLISH, rng, f"{condition.name}_{number:03d}")
        try:
            clip, words = render(synthesizer, recipe)
        except EspeakError:  # word events that do not fit; rare
            continue
        if condition.change is not None:
            clip = condition.change(clip, np.random.default_rng([number, *condition.name.encode()]))
        if condition.shortest_s <= len(clip) / SAMPLE_RATE <= condition.longest_s:
            rounded = (np.round(np.clip(clip, -1, 1) * 32767) / 32768).astype(np.float32)
            return HeldOutClip(condition=condition.name, recipe=recipe, waveform=rounded, words=words)


def draw_all(counts: Mapping[str, int], *, num_workers: int, first_run: int = 0) -> Iterator[HeldOutClip]:
    """That many clips of each condition named, from one run of _RUN clips on, drawn in worker processes."""
    runs = [
        (name, first_run * _RUN + place, min(_RUN, count - place))
        for name, count in counts.items()
        for place in range(0, count, _RUN)
    ]
    for clips in run_jobs(_draw_run, runs, num_workers=num_workers):
        yield from clips


def _draw_run(arguments: tuple[str, int, int]) -> list[HeldOutClip]:
    name, first, count = arguments
    return list(draw_clips(CONDITIONS[name], count, first=first))


def _sentence(grammar: Grammar, rng: random.Random, accepts: Callable[[Sentence], bool] = lambda _: True) -> Sentence:
    while True:
        sentence = grammar.draw(rng)
        if sentence.is_held_out and accepts(sentence):
            return sentence


def _recipe(key: str, sentences: Sequence[Sentence], voice: Voice, rng: random.Random) -> Recipe:
    language = sentences[0].language
    return Recipe(
        key=key,
        sentences=tuple(sentences),
        voice=voice,
        hint=rng.choice((None, language)),
        itn=rng.random() < 0.5,
        silence_s=tuple(round(rng.uniform(0.15, 0.5), 3) for _ in range(len(sentences) + 1)),
        peak=round(rng.uniform(0.1, 0.9), 3),
    )


def _short(rates: tuple[int, int] = _NORMAL) -> Callable[[Grammar, random.Random, str], Recipe]:
    def draw(grammar: Grammar, rng: random.Random, key: str) -> Recipe:
        voice = draw_held_out_voice(grammar.language, rng, rates=rates)
        return _recipe(key, [_sentence(grammar, rng) for _ in range(rng.choice((1, 1, 1, 1, 2)))], voice, rng)

    return draw


def _long(grammar: Grammar, rng: random.Random, key: str) -> Recipe:
    voice = draw_held_out_voice(grammar.language, rng, rates=_NORMAL)
    return _recipe(key, [_sentence(grammar, rng) for _ in range(rng.randrange(6, 13))], voice, rng)


def _numbers(grammar: Grammar, rng: random.Random, key: str) -> Recipe:
    """Sentences whose text differs with and without inverse text normalisation."""
    sentence = _sentence(grammar, rng, lambda each: each.text(itn=True) != each.text(itn=False))
    return _recipe(key, [sentence], draw_held_out_voice(grammar.language, rng), rng)


def _right_hotword(grammar: Grammar, rng: random.Random, key: str) -> Recipe:
    """A name in another spelling than the usual one; the list has it among 19 that are not heard."""
    return _named(grammar, rng, key, is_listed=True)


def _wrong_hotwords(grammar: Grammar, rng: random.Random, key: str) -> Recipe:
    """A name with other spellings and a list of 20 that are not heard."""
    return _named(grammar, rng, key, is_listed=False)


def _named(grammar: Grammar, rng: random.Random, key: str, *, is_listed: bool) -> Recipe:
    sentence = _sentence(grammar, rng, lambda each: any(_is_ambiguous(unit) for unit in each.units))
    unit = next(unit for unit in sentence.units if _is_ambiguous(unit))
    asked = rng.choice(spellings(unit.plain)[1:])
    units = tuple(replace(each, alternative=asked if each is unit else None) for each in sentence.units)
    hotwords = [asked] if is_listed else []
    hotwords += _distractors(unit.plain, grammar.language, NUM_HOTWORDS - len(hotwords), rng)
    rng.shuffle(hotwords)
    recipe = _recipe(key, [replace(sentence, units=units)], draw_held_out_voice(grammar.language, rng), rng)
    return replace(recipe, hotwords=tuple(hotwords), use_alternative=is_listed)


def _is_ambiguous(unit: Unit) -> bool:
    return unit.is_name and len(spellings(unit.plain)) > 1


def _distractors(name: str, language: Language, count: int, rng: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        candidate = draw_similar_name(name, rng) if rng.random() < 0.5 else draw_name(language, rng)
        if not is_heard_in(candidate, name):
            found[candidate] = None
    return list(found)


def _empty(_grammar: Grammar, rng: random.Random, key: str) -> Recipe:
    """No speech; half of the clips with a list of hotwords."""
    language: Language = rng.choice(("英文", "中文"))
    listed = tuple(draw_name(language, rng) for _ in range(NUM_HOTWORDS)) if rng.random() < 0.5 else ()
    return Recipe(
        key=key,
        sentences=(),
        voice=Voice(file="gmw/en-US"),
        hint=rng.choice((None, language)),
        hotwords=listed,
        itn=rng.random() < 0.5,
        silence_s=(round(rng.choice((rng.uniform(0.5, 5.0), rng.uniform(0.5, 29.0))), 3),),
    )


def _add_noise(clip: FloatArray, rng: np.random.Generator) -> FloatArray:
    """White, pink, brown or band noise 10 dB below the speech."""
    power = float(np.mean(np.square(clip[clip != 0])))
    noisy = clip + coloured_noise(rng, len(clip)) * np.float32(np.sqrt(power / 10))
    return np.asarray(noisy / max(1.0, float(np.abs(noisy).max())), np.float32)


def _telephone(clip: FloatArray, _rng: np.random.Generator) -> FloatArray:
    """8 kHz, 300 to 3400 Hz."""
    spectrum = np.fft.rfft(soxr.resample(clip, SAMPLE_RATE, SAMPLE_RATE // 2))
    hz = np.linspace(0, SAMPLE_RATE / 4, len(spectrum))
    narrow = np.fft.irfft(spectrum * ((hz >= 300) & (hz <= 3400)), n=len(clip) // 2)
    return np.asarray(soxr.resample(narrow, SAMPLE_RATE // 2, SAMPLE_RATE), np.float32)


def _only_noise(clip: FloatArray, rng: np.random.Generator) -> FloatArray:
    noise = coloured_noise(rng, len(clip))
    return np.asarray(noise * (10 ** rng.uniform(-2.5, -0.2) / np.abs(noise).max()), np.float32)


def _only_music(clip: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(draw_music(rng, len(clip) / SAMPLE_RATE) * 10 ** rng.uniform(-2.0, -0.2), np.float32)


def _only_hum(clip: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(hum(rng, len(clip) / SAMPLE_RATE) * 10 ** rng.uniform(-2.0, -0.2), np.float32)


def _conditions() -> Iterator[Condition]:
    shortest, longest = LONG_S
    for name, grammar in (("en", ENGLISH), ("zh", MANDARIN)):
        yield Condition(name=f"{name}_clean", grammar=grammar, draw=_short())
        yield Condition(name=f"{name}_snr10", grammar=grammar, draw=_short(), change=_add_noise)
        yield Condition(name=f"{name}_long", grammar=grammar, draw=_long, shortest_s=shortest, longest_s=longest)
        yield Condition(name=f"{name}_itn", grammar=grammar, draw=_numbers)
        yield Condition(name=f"{name}_hotword", grammar=grammar, draw=_right_hotword)
        yield Condition(name=f"{name}_distractors", grammar=grammar, draw=_wrong_hotwords)
        yield Condition(name=f"{name}_telephone", grammar=grammar, draw=_short(), change=_telephone)
        yield Condition(name=f"{name}_slow", grammar=grammar, draw=_short(_SLOW))
        yield Condition(name=f"{name}_fast", grammar=grammar, draw=_short(_FAST))
    yield Condition(name="mixed", grammar=MIXED, draw=_short())
    yield Condition(name="silence", grammar=None, draw=_empty)
    yield Condition(name="noise", grammar=None, draw=_empty, change=_only_noise)
    yield Condition(name="music", grammar=None, draw=_empty, change=_only_music)
    yield Condition(name="hum", grammar=None, draw=_empty, change=_only_hum)


CONDITIONS = {condition.name: condition for condition in _conditions()}
