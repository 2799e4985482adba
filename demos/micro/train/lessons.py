"""Lessons: what one training clip is made of, what the model is asked and what it should answer.

A clip is a row of utterances of the corpus with silence around them, up to 30 s: short pauses within what one voice
says, longer ones, some with a sound, where speakers take turns, as in a segment of a long recording. Hotword lists
hold up to 20 entries: the right one or none of those heard, hard distractors that share a part with a name heard, other
names and other words.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import english
import mandarin
from espeak import SAMPLE_RATE
from grammar import Language, Sentence
from names import PHRASES, draw_name, draw_nearest_name, draw_similar_name, is_heard_in, respell, spellings

from twostage_asr.engine.families.base import Request
from twostage_asr.engine.words.split import split_words, spoken_form

from .corpus import Corpus, Utterance

LONGEST_SAMPLES = 30 * SAMPLE_RATE
SHORTEST_SAMPLES = 4_000
MAX_HOTWORDS = 20


@dataclass(frozen=True, slots=True)
class Segment:
    """An utterance of the corpus within a clip."""

    start: int  # in the clip's samples
    length: int  # in the clip's samples
    source: int  # first sample in the corpus
    speed: float  # corpus samples per clip sample
    level: float  # its peak relative to full scale, before the clip's own level


@dataclass(frozen=True, slots=True)
class Question:
    """What the model is asked about a clip, and what it should answer."""

    request: Request
    text: str
    # As they are written in `text`, phrases that a hotword can respell among them; each with the hotword that says so.
    names: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Lesson:
    """One clip with one or more questions."""

    segments: tuple[Segment, ...]
    num_samples: int
    questions: tuple[Question, ...]
    ctc_text: str
    words: tuple[tuple[str, int], ...]  # spoken word or character, and the sample at its middle


@dataclass(frozen=True, slots=True)
class Mixture:
    """How often each kind of clip occurs; the rest are single sentences."""

    empty: float = 0.10
    few: float = 0.10  # two to four sentences
    long: float = 0.13  # 8 to 30 s
    turns: float = 0.18  # speakers who take turns, in both languages, with long pauses
    named: float = 0.14  # several sentences with names: many look-ups in one list
    questions: int = 2  # about a clip with names, each with another list of hotwords
    most_hotwords: int = MAX_HOTWORDS
    similar: float = 0.5  # of the distractors, where a name is heard
    nearest: float = 0.35  # of the similar ones

    @staticmethod
    def at(progress: float) -> "Mixture":
        """Short clips at first, everything from 30 % of the training on; lists of two until 20 %, of 20 from 55 % on.

        To find the entry of which all parts are heard is learned quickly from two similar ones and hardly from twenty.
        """
        ramp = min(progress / 0.3, 1.0)
        growth = min(max(progress - 0.2, 0.0) / 0.35, 1.0)
        return Mixture(
            few=0.05 + 0.05 * ramp,
            long=0.13 * ramp,
            turns=0.18 * ramp,
            named=0.04 + 0.10 * ramp,
            questions=2 if progress > 0.05 else 1,
            most_hotwords=round(2 * (MAX_HOTWORDS / 2) ** growth),
        )


@dataclass(slots=True)
class _Part:
    """A sentence, whole or cut, as it goes into a clip."""

    sentence: Sentence
    utterance: Utterance
    num_words: int
    num_samples: int  # in the corpus
    chosen: dict[str, str]  # name in its usual spelling -> hotword that respells it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivery:
    """How the sentences of a clip follow each other."""

    pauses_s: tuple[float, float]
    least_level: float  # of a sentence's peak
    sounds: float  # share of sentences before which something else is heard


_ONE_VOICE = _Delivery(pauses_s=(0.0, 0.7), least_level=0.5, sounds=0.0)
_TURNS = _Delivery(pauses_s=(0.2, 2.5), least_level=0.15, sounds=0.15)
_SOUND_S = (1.0, 8.0)  # at most


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything is in a clip."""

    segments: tuple[Segment, ...]
    num_parts: int  # that found room
    num_samples: int
    words: tuple[tuple[str, int], ...]  # as in Lesson


class Teacher:
    """Draws lessons from a corpus."""

    def __init__(self, corpus: Corpus, rng: random.Random) -> None:
        self._speech, self._sounds, self._rng = corpus.speech, corpus.sounds, rng
        self._whole = {utterance.sentence.spoken for utterance in corpus.speech if utterance.sentence is not None}
        self._named: dict[Language, list[Utterance]] = {"英文": [], "中文": []}
        for utterance in corpus.speech:
            if utterance.sentence is not None and any(unit.is_name for unit in utterance.sentence.units):
                self._named[utterance.sentence.language].append(utterance)

    def draw(self, mixture: Mixture) -> Lesson:
        """One lesson."""
        rng = self._rng
        shares = (mixture.empty, mixture.long, mixture.few, mixture.turns, mixture.named)
        (kind,) = rng.choices(("empty", "long", "few", "turns", "named", "single"), (*shares, 1 - sum(shares)))
        if kind == "empty":
            return self._draw_empty(mixture)
        if kind == "long":
            parts = self._draw_parts(40, rng.uniform(8.0, 29.9))
        elif kind == "few":
            parts = self._draw_parts(rng.randrange(2, 5), 29.0)
        elif kind == "turns":
            parts = [_whole(rng.choice(self._speech)) for _ in range(rng.randrange(2, 7))]
        elif kind == "named":
            parts = self._draw_named(rng.randrange(3, 8))
        else:
            parts = self._draw_parts(1, 15.0)
            if rng.random() < 0.08:
                parts[0] = self._cut(parts[0])
        return self._teach(parts, mixture, _TURNS if kind == "turns" else _ONE_VOICE)

    def _draw_parts(self, count: int, longest_s: float) -> list[_Part]:
        """Up to `count` sentences: neighbours in one voice, or any of one language, or any at all."""
        rng, pool = self._rng, self._speech
        first = rng.randrange(len(pool))
        style = rng.random()
        parts: list[_Part] = []
        samples = 0
        while len(parts) < count:
            utterance = pool[(first + len(parts)) % len(pool)] if style < 0.6 else rng.choice(pool)
            assert utterance.sentence is not None
            if parts and 0.6 <= style < 0.9 and utterance.sentence.language != parts[0].sentence.language:
                continue
            samples += utterance.num_samples + round(0.35 * SAMPLE_RATE)
            if parts and samples > longest_s * SAMPLE_RATE:
                break
            parts.append(_whole(utterance))
        return parts

    def _draw_named(self, count: int) -> list[_Part]:
        """Sentences with names, all of one language; where there is none, any."""
        pool = self._named[self._rng.choice(("英文", "中文"))] or self._speech
        return [_whole(self._rng.choice(pool)) for _ in range(count)]

    def _cut(self, part: _Part) -> _Part:
        """Only the first units of the sentence, as in live audio; none that are a sentence, which would have a mark."""
        units = part.sentence.units
        for keep in self._rng.sample(range(1, len(units)), len(units) - 1):
            begun = replace(part.sentence, units=units[:keep])
            num_words, is_whole = len(begun.words), begun.spoken in self._whole
            if begun.words == part.sentence.words[:num_words] and num_words < part.num_words and not is_whole:
                num_samples = int(part.utterance.edges[num_words, 0] * SAMPLE_RATE)
                return _Part(begun, part.utterance, num_words, num_samples, {})
        return part

    def _draw_empty(self, mixture: Mixture) -> Lesson:
        """Silence, noise (which every clip may get later), or sounds in a row, speech of unknown words among them."""
        rng = self._rng
        segments: list[Segment] = []
        total = rng.choice((rng.randrange(8 * SAMPLE_RATE), rng.randrange(LONGEST_SAMPLES)))
        if rng.random() < 0.7:
            total = rng.randrange(8000)
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                sound = self._draw_sound(LONGEST_SAMPLES - min(total, LONGEST_SAMPLES))
                segments.append(replace(sound, start=total))
                total += sound.length + rng.randrange(8000)
                if total >= LONGEST_SAMPLES:
                    break
        total = min(max(total, SHORTEST_SAMPLES), LONGEST_SAMPLES)
        language: Language = rng.choice(("英文", "中文"))
        hotwords = self._distractors(language, (), self._list_size(mixture), mixture) if rng.random() < 0.5 else []
        request = Request(language=self._hint(language), hotwords=tuple(hotwords), itn=rng.random() < 0.5)
        return Lesson(tuple(segments), total, (Question(request, ""),), "", ())

    def _teach(self, parts: Sequence[_Part], mixture: Mixture, delivery: _Delivery) -> Lesson:
        layout = self._lay_out(parts, delivery)
        parts = parts[: layout.num_parts]
        questions = [self._ask(parts, mixture)]
        if questions[0].names:
            questions += [self._ask(parts, mixture, is_listed=True) for _ in range(mixture.questions - 1)]
        spoken = join(parts, [part.sentence.spoken for part in parts])
        if self._rng.random() < 0.2:
            text = questions[0].text
            spoken = spoken_form(text, split_words(text))[0]
        return Lesson(layout.segments, layout.num_samples, tuple(questions), spoken, layout.words)

    def _ask(self, parts: Sequence[_Part], mixture: Mixture, *, is_listed: bool = False) -> Question:
        """A question about the clip, with hotwords if `is_listed`."""
        for part in parts:
            part.chosen.clear()
        has_names = any(names_in(part.sentence) for part in parts)
        share = 1.0 if is_listed else 0.8 if has_names else 0.25
        hotwords = self._hotwords(parts, mixture) if self._rng.random() < share else []
        language = self._hint(parts[0].sentence.language)
        request = Request(language=language, hotwords=tuple(hotwords), itn=self._rng.random() < 0.5)
        text = join(parts, [_written(part, request.itn) for part in parts])
        names = {_with_hotword(part, name): part.chosen.get(name) for part in parts for name in names_in(part.sentence)}
        return Question(request, text, tuple(names.items()))

    def _lay_out(self, parts: Sequence[_Part], delivery: _Delivery) -> _Layout:
        """Sentences one after another at one speed, as many as fit, silence before, between and after."""
        rng = self._rng
        speed = rng.uniform(0.88, 1.14) if rng.random() < 0.6 else 1.0
        place = self._silence(0.0, 0.8)
        num_parts = 0
        segments: list[Segment] = []
        words: list[tuple[str, int]] = []
        for part in parts:
            length = int(part.num_samples / speed)
            sound = self._draw_sound(round(rng.uniform(*_SOUND_S) * SAMPLE_RATE))
            after = place + sound.length + self._silence(*delivery.pauses_s)
            if rng.random() < delivery.sounds and after + length <= LONGEST_SAMPLES:
                segments.append(replace(sound, start=place, level=rng.uniform(0.05, 1.0)))
                place = after
            if place + length > LONGEST_SAMPLES:
                break
            num_parts += 1
            level = rng.uniform(delivery.least_level, 1.0)
            segments.append(Segment(place, length, part.utterance.offset, speed, level))
            middles = part.utterance.edges[: part.num_words].mean(1) * (SAMPLE_RATE / speed) + place
            words += zip(part.sentence.words, middles.astype(int).tolist(), strict=True)
            place += length + self._silence(*delivery.pauses_s)
        total = min(max(place, SHORTEST_SAMPLES), LONGEST_SAMPLES)
        return _Layout(tuple(segments), num_parts, total, tuple(words))

    def _draw_sound(self, longest: int) -> Segment:
        """A sound, or its first `longest` samples."""
        sound, speed = self._rng.choice(self._sounds), self._rng.uniform(0.8, 1.25)
        return Segment(0, min(int(sound.num_samples / speed), longest), sound.offset, speed, 1.0)

    def _silence(self, shortest_s: float, longest_s: float) -> int:
        """Samples; one in ten is as short as it may be."""
        seconds = shortest_s if self._rng.random() < 0.1 else self._rng.uniform(shortest_s, longest_s)
        return round(seconds * SAMPLE_RATE)

    def _hint(self, language: Language) -> str | None:
        kind = self._rng.random()
        return None if kind < 0.45 else language if kind < 0.96 else self._rng.choice(("英文", "中文", "日文"))

    def _list_size(self, mixture: Mixture) -> int:
        rng = self._rng
        most = mixture.most_hotwords
        return rng.choice((min(rng.randrange(1, 5), most), rng.randrange(1, most + 1), most))

    def _hotwords(self, parts: Sequence[_Part], mixture: Mixture) -> list[str]:
        """The list for the prompt; fills in what each part's names become."""
        rng = self._rng
        heard = [name for part in parts for name in names_in(part.sentence)]
        right: list[str] = []
        if heard and rng.random() < 0.65:
            for name in rng.sample(heard, self._num_right(len(heard))):
                if not any(is_heard_in(hotword, other) for hotword in (name, *right) for other in right):
                    right.append(self._right_hotword(name))
        right = right[: mixture.most_hotwords]
        _choose(parts, right)
        size = len(right) if right and rng.random() < 0.2 else max(self._list_size(mixture), len(right))
        hotwords = right + self._distractors(parts[0].sentence.language, heard, size - len(right), mixture)
        if rng.random() < 0.15:  # a word that is heard and has one spelling
            units = [unit for part in parts for unit in part.sentence.units if not unit.is_name]
            words = [unit.plain for unit in units if unit.plain.isalpha() and not set(names_in(parts[0].sentence))]
            hotwords += rng.sample(words, min(len(words), 1))
        rng.shuffle(hotwords)
        return hotwords[:MAX_HOTWORDS] if not right else _keep(hotwords, right)

    def _num_right(self, num_heard: int) -> int:
        """Names heard that are listed."""
        if num_heard > 2:
            return self._rng.randrange(1, num_heard + 1)
        return self._rng.choice((1, 1, 1, num_heard))

    def _right_hotword(self, name: str) -> str:
        """The name, or a part of it, in another spelling where it has one, at times in its usual one."""
        rng = self._rng
        if name in PHRASES:
            return PHRASES[name] if rng.random() < 0.7 else name
        others = spellings(name)
        hotword = rng.choice(others[1:]) if len(others) > 1 and rng.random() < 0.85 else others[0]
        return rng.choice(hotword.split()) if rng.random() < 0.1 else hotword

    def _distractors(self, language: Language, heard: Sequence[str], count: int, mixture: Mixture) -> list[str]:
        """Hotwords that are not heard; some of them share a part with a name that is."""
        found: dict[str, None] = {}
        for _ in range(count):
            for _ in range(8):
                candidate = self._distractor(language, heard, mixture)
                asked = any(is_heard_in(candidate, name) or PHRASES.get(name) == candidate for name in heard)
                if candidate not in found and not asked:
                    found[candidate] = None
                    break
        return list(found)

    def _distractor(self, language: Language, heard: Sequence[str], mixture: Mixture) -> str:
        rng, kind = self._rng, self._rng.random()
        people = [name for name in heard if name not in PHRASES]
        if people and rng.random() < mixture.similar:
            name = rng.choice(people)
            return (draw_nearest_name if rng.random() < mixture.nearest else draw_similar_name)(name, rng)
        if kind < 0.7:
            other: Language = "英文" if language == "中文" else "中文"
            return draw_name(language if rng.random() < 0.85 else other, rng)
        if kind < 0.74:
            return rng.choice(list(PHRASES.values()))
        if kind < 0.86:
            return rng.choice(english.WORDS if language == "英文" else mandarin.WORDS)
        return _strange_word(rng)


def _whole(utterance: Utterance) -> _Part:
    assert utterance.sentence is not None
    return _Part(utterance.sentence, utterance, len(utterance.edges), utterance.num_samples, {})


def _choose(parts: Sequence[_Part], right: Sequence[str]) -> None:
    """Fill in what each part's names become."""
    for part in parts:
        for name in names_in(part.sentence):
            for hotword in right:
                if is_heard_in(hotword, name) or PHRASES.get(name) == hotword:
                    part.chosen[name] = hotword


def _keep(hotwords: list[str], right: Sequence[str]) -> list[str]:
    """At most MAX_HOTWORDS, the right ones among them."""
    spare = MAX_HOTWORDS - len(right)
    return [word for place, word in enumerate(hotwords) if word in right or place < spare]


def _strange_word(rng: random.Random) -> str:
    """A word that no sentence has."""
    if rng.random() < 0.5:
        return "".join(rng.sample("".join(mandarin.WORDS), rng.randrange(2, 5)))
    syllables = [rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randrange(2, 5))]
    return "".join(syllables).capitalize()


def names_in(sentence: Sentence) -> list[str]:
    """What a hotword can respell: names in their usual spelling, and phrases."""
    names = [unit.plain for unit in sentence.units if unit.is_name]
    return names + [phrase for phrase in PHRASES if phrase in sentence.spoken]


def _written(part: _Part, itn: bool) -> str:
    text = part.sentence.text(itn=itn).strip()
    for name in part.chosen:
        text = text.replace(name, _with_hotword(part, name))
    return text


def _with_hotword(part: _Part, name: str) -> str:
    """The name as the hotword that was chosen for it says, or as it is."""
    hotword = part.chosen.get(name, name)
    return hotword if name in PHRASES else respell(name, name, hotword)


def join(parts: Sequence[_Part], texts: Sequence[str]) -> str:
    """Texts of a clip's sentences; English is set off by spaces."""
    pieces: list[str] = []
    for index, (part, text) in enumerate(zip(parts, texts, strict=True)):
        if index and "英文" in (part.sentence.language, parts[index - 1].sentence.language):
            pieces.append(" ")
        pieces.append(text)
    return "".join(pieces)
