"""Transcript -> the JSON that each protocol's clients parse."""

import itertools
import math
import string
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..speakers.labelling import speakers_of
from ..transcript import Segment, Token, Transcript, TranscriptWarning, Word

ResponseFormat = Literal["json", "text", "verbose_json", "srt", "vtt", "diarized_json"]


def usage(transcript: Transcript) -> dict[str, Any]:
    """OpenAI's `usage` object for models that are billed by the second."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def warnings(transcript: Transcript) -> list[dict[str, str]]:
    return [warning_json(warning) for warning in transcript.warnings]


def warning_json(warning: TranscriptWarning) -> dict[str, str]:
    return {"code": warning.code, "message": warning.message}


def plain(transcript: Transcript) -> dict[str, Any]:
    """OpenAI's `json`, and this engine's warnings."""
    answer = {"text": transcript.text, "usage": usage(transcript), "warnings": warnings(transcript)}
    if transcript.tokens is not None:
        answer["logprobs"] = logprobs(transcript.tokens)
    return answer


def logprobs(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """OpenAI's `logprobs`."""
    return [{"token": t.text, "logprob": t.log_prob, "bytes": list(t.text.encode())} for t in tokens]


def verbose(transcript: Transcript, *, with_words: bool, temperature: float) -> dict[str, Any]:
    """OpenAI's `verbose_json`; each segment has its words as well, as in FunASR's server."""
    answer = {
        "task": "transcribe",
        "language": transcript.language or "unknown",
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [_openai_segment(i, s, temperature) for i, s in enumerate(transcript.segments)],
        "usage": usage(transcript),
        "confidence": transcript.confidence,
        "warnings": warnings(transcript),
    }
    if with_words:
        answer["words"] = words(transcript.words)
    return answer


def diarized(transcript: Transcript, *, known: Collection[str] = ()) -> dict[str, Any]:
    """OpenAI's `diarized_json`; see diarized_segments."""
    return {
        "task": "transcribe",
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": diarized_segments(transcript, known=known),
        "usage": usage(transcript),
        "warnings": warnings(transcript),
    }


def diarized_segments(transcript: Transcript, *, known: Collection[str]) -> list[dict[str, Any]]:
    """The segments as OpenAI's events of streamed answers. Speakers who are not known are called A, B, ..."""
    letters = (letter for letter in _letters() if letter not in known)
    labels = {name: name if name in known else next(letters) for name in speakers_of(transcript)}
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number}",
            "start": segment.start,
            "end": segment.end,
            "text": segment.text,
            "speaker": labels.get(segment.speaker or "", "unknown"),
        }
        for number, segment in enumerate(transcript.segments)
    ]


def _letters() -> Iterator[str]:
    """A, B, ..., Z, AA, AB, ..."""
    for size in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=size))


def funasr(transcript: Transcript, *, with_words: bool, wall_s: float) -> dict[str, Any]:
    """The answer of FunASR's POST /asr; times in seconds."""
    segments = []
    for segment in transcript.segments:
        entry: dict[str, Any] = {"text": segment.text, "start": segment.start, "end": segment.end, **_source(segment)}
        if with_words:
            entry["words"] = words(segment.words)
        segments.append(entry)
    return {
        "text": transcript.text,
        "segments": segments,
        "duration": round(transcript.duration, 3),
        "processing_time": round(wall_s, 3),
        "rtf": round(wall_s / max(transcript.duration, 1e-6), 4),
        "language": transcript.language,
        "warnings": warnings(transcript),
    }


def sentences(
    transcript: Transcript,
    *,
    offset_ms: int = 0,
    numbers: dict[str, int] | None = None,
    known: Collection[str] = (),
) -> list[dict[str, Any]]:
    """FunASR's WebSocket sentences; times in milliseconds.

    `numbers` are those of the speakers of earlier sentences, to which the new ones are added. `known` are names of
    known speakers.
    """
    numbers = {} if numbers is None else numbers
    for name in speakers_of(transcript):
        numbers.setdefault(name, len(numbers))
    return [
        {
            "text": s.text,
            "start": offset_ms + round(s.start * 1000),
            "end": offset_ms + round(s.end * 1000),
            **({} if s.speaker is None else sentence_speaker(s.speaker, numbers, known)),
        }
        for s in transcript.segments
    ]


def sentence_speaker(name: str, numbers: Mapping[str, int], known: Collection[str]) -> dict[str, Any]:
    """`spk`, the number of a sentence's speaker, and `speaker`, the name if it is one of `known`."""
    return {"spk": numbers[name], **({"speaker": name} if name in known else {})}


def words(found: tuple[Word, ...] | None) -> list[dict[str, Any]]:
    return [{"word": word.text, "start": word.start, "end": word.end, **_source(word)} for word in found or ()]


def _source(part: Segment | Word) -> dict[str, Any]:
    """The channel, if the request has split the channels, and the speaker, if it asked who speaks."""
    return {name: value for name in ("channel", "speaker") if (value := part[name]) is not None}


def _openai_segment(index: int, segment: Segment, temperature: float) -> dict[str, Any]:
    text = segment.text.encode()
    return {
        "id": index,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": None if not segment.confidence else round(math.log(segment.confidence), 4),
        "compression_ratio": round(len(text) / max(len(zlib.compress(text)), 1), 4),
        "no_speech_prob": None,  # this engine does not compute it
        "words": words(segment.words),
        **_source(segment),
    }
