"""Turns and a transcript -> the transcript with its speakers. The text and the times of words stay what they are."""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import replace

from ..transcript import Segment, SpeakerTurn, Transcript, Word
from .diarize import Diarized


def with_speakers(transcript: Transcript, diarized: Diarized) -> Transcript:
    """The transcript with turns, a speaker for each word and segment, and segments split where the speaker changes."""
    finder = _Finder(diarized)
    segments = tuple(itertools.chain(*(_split(segment, finder) for segment in transcript.segments)))
    timed = [segment.words for segment in segments if segment.words is not None]
    words = transcript.words and tuple(itertools.chain(*timed))
    return replace(transcript, segments=segments, words=words, turns=diarized.turns)


class _Finder:
    """Finds who speaks in a span."""

    def __init__(self, diarized: Diarized) -> None:
        self._turns: dict[int | None, list[SpeakerTurn]] = {}
        for turn in diarized.turns:
            self._turns.setdefault(turn.channel, []).append(turn)
        self._ends = {channel: [turn.end for turn in turns] for channel, turns in self._turns.items()}

    def speaker(self, start: float, end: float, channel: int | None) -> str | None:
        """Who has the largest share of a span, or speaks nearest to it; None if nobody speaks at all."""
        turns = self._turns.get(channel, [])
        if not turns:
            return None
        shares: dict[str, float] = {}
        first = min(bisect.bisect_right(self._ends[channel], start), len(turns) - 1)
        for turn in itertools.islice(turns, first, None):
            if turn.start >= end:
                break
            shared = min(end, turn.end) - max(start, turn.start)
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + max(0.0, shared)
        if shares and max(shares.values()) > 0:
            return max(shares, key=shares.__getitem__)
        near = turns[max(first - 1, 0) : first + 1]
        return min(near, key=lambda turn: max(turn.start - end, start - turn.end)).speaker


def _split(segment: Segment, finder: _Finder) -> list[Segment]:
    """The segment as one for each run of words of one speaker."""
    if not segment.words:
        return [replace(segment, speaker=finder.speaker(segment.start, segment.end, segment.channel))]
    words = tuple(replace(word, speaker=finder.speaker(word.start, word.end, word.channel)) for word in segment.words)
    runs = [tuple(run) for _, run in itertools.groupby(words, key=lambda word: word.speaker)]
    texts = _texts(segment.text, runs)
    if len(runs) == 1 or texts is None:
        longest: dict[str | None, float] = {}
        for word in words:
            longest[word.speaker] = longest.get(word.speaker, 0.0) + word.end - word.start
        return [replace(segment, words=words, speaker=max(longest, key=longest.__getitem__))]
    return list(_parts(segment, runs, texts))


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
