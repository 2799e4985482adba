"""Join the transcripts of a long recording's segments into one, with times from the start of the recording."""

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .transcript import Segment, Token, Transcript, TranscriptWarning, Word


@dataclass(frozen=True, slots=True)
class Part:
    """The transcript of one segment, with times from the start of that segment."""

    start: float  # s, of the segment in its recording
    transcript: Transcript
    channel: int | None = None  # set if the channels of the recording are transcribed apart


def join_parts(key: str, parts: Sequence[Part], *, duration: float, language: str | None) -> Transcript:
    """The transcript of a recording of `duration` seconds.

    Its segments stand in the order in which they begin, whatever that of `parts`, and its text and words in that of
    the segments; words are those of the segments that have times. Its confidence is the mean of the segments',
    weighted by the length of their texts. `language` is what to say where no segment says one.
    """
    parts = sorted(parts, key=lambda part: (part.start, part.channel or 0))
    if parts and all(part.transcript.status == "error" for part in parts):
        return replace(parts[0].transcript, key=key, duration=duration)
    segments = [_placed(segment, part) for part in parts for segment in part.transcript.segments]
    segments.sort(key=lambda segment: segment.start)
    timed = [segment.words for segment in segments if segment.words is not None]
    languages: Counter[str] = Counter()
    for part in parts:
        if part.transcript.language is not None:
            languages[part.transcript.language] += len(part.transcript.text)
    return Transcript(
        key=key,
        text=join_texts([segment.text for segment in segments]),
        language=languages.most_common(1)[0][0] if languages else language,
        words=tuple(itertools.chain(*timed)) if timed or not segments else None,
        segments=tuple(segments),
        duration=duration,
        confidence=_mean_confidence(segments),
        finish_reason="length" if any(part.transcript.finish_reason == "length" for part in parts) else "stop",
        warnings=tuple(_joined_warnings(parts)),
        tokens=_joined_tokens(parts),
    )


def join_texts(texts: Iterable[str]) -> str:
    """Concatenate texts, with a space between two of them if both scripts use spaces."""
    joined = ""
    for text in texts:
        needs_space = joined and text and not (_is_unspaced(joined[-1]) or _is_unspaced(text[0]))
        joined += " " + text if needs_space else text
    return joined


def _is_unspaced(character: str) -> bool:
    """Whether a character is Chinese, Japanese or full-width punctuation. Korean is wide as well, but uses spaces."""
    is_wide = unicodedata.east_asian_width(character) in "WF"
    return is_wide and not unicodedata.name(character, "").startswith("HANGUL")


def shifted(segment: Segment, offset: float) -> Segment:
    """The segment `offset` seconds later."""
    words = segment.words and tuple(shifted_word(word, offset) for word in segment.words)
    return replace(segment, start=round(segment.start + offset, 3), end=round(segment.end + offset, 3), words=words)


def shifted_word(word: Word, offset: float) -> Word:
    """The word `offset` seconds later."""
    return replace(word, start=round(word.start + offset, 3), end=round(word.end + offset, 3))


def _placed(segment: Segment, part: Part) -> Segment:
    """A segment at its place in the recording."""
    segment = shifted(segment, part.start)
    if part.channel is None:
        return segment
    words = segment.words and tuple(replace(word, channel=part.channel) for word in segment.words)
    return replace(segment, words=words, channel=part.channel)


def _mean_confidence(segments: Sequence[Segment]) -> float | None:
    known = [(len(s.text), s.confidence) for s in segments if s.confidence is not None]
    total = sum(length for length, _ in known)
    return sum(length * confidence for length, confidence in known) / total if total else None


def with_warnings(transcript: Transcript, warnings: tuple[TranscriptWarning, ...]) -> Transcript:
    """The transcript, with the warnings from reading its audio before its own."""
    return replace(transcript, warnings=warnings + transcript.warnings) if warnings else transcript


def _joined_tokens(parts: Sequence[Part]) -> tuple[Token, ...] | None:
    tokens = [part.transcript.tokens for part in parts if part.transcript.tokens is not None]
    return tuple(itertools.chain(*tokens)) if tokens else None


def _joined_warnings(parts: Sequence[Part]) -> Iterator[TranscriptWarning]:
    """A warning that every segment has is given once; any other names the times of its segment."""
    found = [(part, warning) for part in parts for warning in _part_warnings(part.transcript)]
    times_said = Counter(warning for _, warning in found)
    shared = [warning for warning, count in times_said.items() if count == len(parts) > 1]
    yield from shared
    for part, warning in found:
        if warning not in shared:
            place = "" if part.channel is None else f"channel {part.channel}, "
            end = part.start + part.transcript.duration
            yield TranscriptWarning(warning.code, f"{place}{part.start:.2f} to {end:.2f} s: {warning.message}")


def _part_warnings(transcript: Transcript) -> tuple[TranscriptWarning, ...]:
    if transcript.status == "error":
        return (TranscriptWarning("segment_failed", f"no text: {transcript.error}"),)
    return transcript.warnings
