"""Turns and a transcript -> the transcript with its speakers. The text and the times of words stay what they are."""

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ..transcript import Segment, SpeakerTurn, Transcript, TranscriptWarning, Word


def with_speakers(transcript: Transcript, turns: Sequence[SpeakerTurn]) -> Transcript:
    """The transcript with turns, a speaker for each word and segment, and segments split where the speaker changes.

    Turns without a word, such as those of a laugh, are left out. In a segment without word times, each turn may have
    words.
    """
    finder = _Finder(turns)
    segments = tuple(itertools.chain(*(_split(segment, finder) for segment in transcript.segments)))
    timed = [segment.words for segment in segments if segment.words is not None]
    words = transcript.words and tuple(itertools.chain(*timed))
    return replace(
        transcript, segments=segments, words=words, turns=tuple(turn for turn in turns if id(turn) in finder.spoken)
    )


def speakers_of(transcript: Transcript) -> list[str]:
    """The speakers in the order of their first words. Who only has turns, for want of word times, comes last."""
    names: list[str | None] = []
    for segment in transcript.segments:
        names += [*(word.speaker for word in segment.words or ()), segment.speaker]
    names += [turn.speaker for turn in transcript.turns or ()]
    return [name for name in dict.fromkeys(names) if name is not None]


def relabelled(transcript: Transcript, names: Mapping[str, str]) -> Transcript:
    """The transcript with other names in the places of its speakers'; names that are not a key stay."""
    if transcript.turns is None or all(old == new for old, new in names.items()):
        return transcript

    def name(speaker: str | None) -> str | None:
        return None if speaker is None else names.get(speaker, speaker)

    def words(some: tuple[Word, ...] | None) -> tuple[Word, ...] | None:
        return some and tuple(_spoken_by(name(word.speaker), word) for word in some)

    return replace(
        transcript,
        words=words(transcript.words),
        segments=tuple(
            replace(segment, speaker=name(segment.speaker), words=words(segment.words))
            for segment in transcript.segments
        ),
        turns=tuple(replace(turn, speaker=names.get(turn.speaker, turn.speaker)) for turn in transcript.turns),
    )


def unnamed(transcript: Transcript, *reasons: str) -> Transcript:
    """The transcript with a warning for each reason why speakers of it, or of a part of it, are not known."""
    if not reasons:
        return transcript
    told = (TranscriptWarning("no_speakers", f"the speakers are not known: {reason}") for reason in reasons)
    return replace(transcript, warnings=(*transcript.warnings, *told))


class _Finder:
    """Finds who speaks in a span, and remembers which turns have words."""

    def __init__(self, turns: Sequence[SpeakerTurn]) -> None:
        self.spoken: set[int] = set()  # the id() of each such turn
        self._turns: dict[int | None, list[SpeakerTurn]] = {}
        for turn in turns:
            self._turns.setdefault(turn.channel, []).append(turn)
        self._ends = {channel: [turn.end for turn in turns] for channel, turns in self._turns.items()}

    def speaker_of(self, part: Word | Segment) -> str | None:
        """Who has the largest share of a part, or speaks nearest to it; None if nobody speaks at all."""
        turns = self._turns_of(part)
        if len(turns) == 1:
            self.spoken.add(id(turns[0]))
            return turns[0].speaker
        shares: dict[str, float] = {}
        for turn in turns:
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + _shared(turn, part)
        speaker = max(shares, key=shares.__getitem__, default=None)
        self.spoken.update(id(turn) for turn in turns if turn.speaker == speaker or isinstance(part, Segment))
        return speaker

    def _turns_of(self, part: Word | Segment) -> list[SpeakerTurn]:
        """The turns that share time with a part, or the nearest one if none does."""
        turns = self._turns.get(part.channel, [])
        if len(turns) < 2:
            return turns
        first = min(bisect.bisect_right(self._ends[part.channel], part.start), len(turns) - 1)
        if _shared(turns[first], part) > 0 and (first + 1 == len(turns) or turns[first + 1].start >= part.end):
            return [turns[first]]  # so it is for most words
        following = itertools.takewhile(lambda turn: turn.start < part.end, itertools.islice(turns, first, None))
        if within := [turn for turn in following if _shared(turn, part) > 0]:
            return within
        near = turns[max(first - 1, 0) : first + 1]
        return [max(near, key=lambda turn: _shared(turn, part))]


def _shared(turn: SpeakerTurn, part: Word | Segment) -> float:
    """The seconds that both have in common; below zero, those that are between them."""
    return min(part.end, turn.end) - max(part.start, turn.start)


def _split(segment: Segment, finder: _Finder) -> list[Segment]:
    """The segment as one for each run of words of one speaker."""
    if not segment.text:  # noise is nobody's
        return [segment]
    if not segment.words:
        return [replace(segment, speaker=finder.speaker_of(segment))]
    words = tuple(_spoken_by(finder.speaker_of(word), word) for word in segment.words)
    runs = [tuple(run) for _, run in itertools.groupby(words, key=lambda word: word.speaker)]
    texts = None if len(runs) == 1 else _texts(segment.text, runs)
    if texts is None:
        longest: dict[str | None, float] = {}
        for word in words:
            longest[word.speaker] = longest.get(word.speaker, 0.0) + word.end - word.start
        return [replace(segment, words=words, speaker=max(longest, key=longest.__getitem__))]
    return list(_parts(segment, runs, texts))


def _spoken_by(speaker: str | None, word: Word) -> Word:
    """The word with its speaker, in a third of the time that replace() takes: ten hours have 100,000 words."""
    return Word(word.text, word.start, word.end, word.confidence, word.channel, speaker)


def _parts(segment: Segment, runs: list[tuple[Word, ...]], texts: list[str]) -> Iterator[Segment]:
    for number, (run, text) in enumerate(zip(runs, texts, strict=True)):
        is_first, is_last = number == 0, number == len(runs) - 1
        yield replace(
            segment,
            start=segment.start if is_first else run[0].start,
            end=segment.end if is_last else run[-1].end,
            text=text,
            words=run,
            confidence=sum(word.confidence for word in run) / len(run),
            warnings=segment.warnings if is_first else (),
            speaker=run[0].speaker,
        )


def _texts(text: str, runs: list[tuple[Word, ...]]) -> list[str] | None:
    """The part of the text that each run writes, punctuation included; None if a word is not found in the text."""
    starts, position = [], 0
    for run in runs:
        for number, word in enumerate(run):
            found = text.find(word.text, position)
            if found < 0:
                return None
            if number == 0:
                starts.append(found)
            position = found + len(word.text)
    bounds = [0, *starts[1:], len(text)]
    return [text[start:end].strip() for start, end in itertools.pairwise(bounds)]
