"""What users receive: Word, Segment and Transcript, readable by attribute and by key, JSON both ways.

Times are seconds (float) from the start of the audio; confidences lie in [0, 1].
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from .errors import ASRError, ErrorCode, error_of

Status = Literal["ok", "error"]
FinishReason = Literal["stop", "length"]
WarningCode = Literal[
    "no_word_times",
    "long_audio",
    "unfinished",
    "repetition",
    "no_speech",
    "disagreement",
    "ctc_text",
    "segment_failed",
    "filled_gap",
    "joined_times",
    "skipped_bytes",
    "trailing_audio",
    "missing_audio",
    "louder_channel",
    "stray_byte",
]
_SHOWN_CHARS = 60  # of a text, in repr()


class _Record:
    """Read a dataclass by key as well: r["text"] is r.text."""

    __slots__ = ()

    def keys(self) -> tuple[str, ...]:
        return tuple(f.name for f in fields(self))  # type: ignore[arg-type]

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(f"{type(self).__name__} has no {key!r}; it has {', '.join(self.keys())}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self.keys() else default


@dataclass(frozen=True, slots=True)
class Word(_Record):
    """One written word (one character of Chinese or Japanese), when it was spoken, and how sure that is."""

    text: str
    start: float
    end: float
    confidence: float
    channel: int | None = None  # from 0 on; None unless channels="split"


@dataclass(frozen=True, slots=True)
class TranscriptWarning(_Record):
    """Something a reader of the transcript should know; the message says more.

    - "no_word_times": there are no words, and why.
    - "long_audio": longer than the model hears well in one pass, and not cut.
    - "unfinished": the answer reached max_new_tokens, and what would follow is missing.
    - "repetition": the text goes round in circles; so it did when decoded once more, with a penalty for it.
    - "no_speech": the model wrote something where its own CTC head hears nothing; that text was dropped.
    - "disagreement": the text differs much from what the CTC head hears.
    - "ctc_text": such a text was replaced by what the CTC head hears, as asked for.
    - "segment_failed": a segment of a recording could not be transcribed.

    Of the audio itself:
    - "filled_gap": the file has no audio for a time (it begins late, or packets are missing); silence stands there.
    - "joined_times": time stamps overlap or jump; the sound is whole, but times may differ from the file's.
    - "skipped_bytes": foreign bytes between the audio, such as the tags of files that were joined, were skipped.
    - "trailing_audio": a WAV holds more than its header says; the rest was not read.
    - "missing_audio": a part of the file is not there, or could not be decoded.
    - "louder_channel": the channels cancel each other; one of them was heard in place of their mean.
    - "stray_byte": live audio ended in the middle of a sample.
    """

    code: WarningCode
    message: str


@dataclass(frozen=True, slots=True)
class Segment(_Record):
    """One stretch of speech that was decoded in one pass, and what to know about it."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] | None
    confidence: float | None
    warnings: tuple[TranscriptWarning, ...] = ()
    channel: int | None = None  # from 0 on; None unless channels="split"


@dataclass(frozen=True, slots=True)
class Token(_Record):
    """One token of the LLM's answer; a part of a character reads as U+FFFD."""

    text: str
    log_prob: float  # natural logarithm


@dataclass(frozen=True, slots=True, repr=False)
class Transcript(_Record):
    """The result for one input.

    `status` is "error" when the input could not be transcribed; `error` then says why in words, `error_code` is the
    code of the error's kind (errors.py lists them), and `text` is empty. `words` is None when no times could be found,
    and a warning says why; it is empty when nothing was said. Of a recording in several segments, the words are those
    of the segments that have times; `warnings` holds its segments' as well.
    """

    key: str
    text: str = ""
    language: str | None = None
    words: tuple[Word, ...] | None = None
    segments: tuple[Segment, ...] = ()
    duration: float = 0.0
    confidence: float | None = None
    status: Status = "ok"
    finish_reason: FinishReason | None = None
    warnings: tuple[TranscriptWarning, ...] = ()
    error: str | None = None
    error_code: ErrorCode | None = None
    tokens: tuple[Token, ...] | None = None  # None unless asked for

    def __repr__(self) -> str:
        """One short line; to_json() has everything."""
        shown = {"key": self.key, "text": self.text, "status": self.status}
        if self.error is not None:
            shown["error"] = self.error
        return f"Transcript({', '.join(f'{name}={_shortened(value)!r}' for name, value in shown.items())})"

    @classmethod
    def failed(cls, key: str, error: ASRError, *, duration: float = 0.0) -> Self:
        """The result for an input that this error kept from being transcribed."""
        return cls(key, duration=duration, status="error", error=str(error), error_code=error.code)

    def exception(self) -> ASRError | None:
        """The error as an exception of its kind; None where the status is "ok"."""
        return None if self.status == "ok" else error_of(self.error_code, self.error or "")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return {key: _plain(self[key]) for key in self}

    def to_json(self) -> str:
        """One line of JSON; non-ASCII text stays readable."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **data,
                "words": _words(data.get("words")),
                "segments": tuple(_segment(s) for s in data.get("segments", ())),
                "warnings": _warnings(data),
                "tokens": None if data.get("tokens") is None else tuple(Token(**t) for t in data["tokens"]),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(json.loads(text))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _plain(value: Any) -> Any:
    if isinstance(value, _Record):
        return {key: _plain(value[key]) for key in value if key != "channel" or value[key] is not None}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _words(data: list[dict[str, Any]] | None) -> tuple[Word, ...] | None:
    return None if data is None else tuple(Word(**w) for w in data)


def _segment(data: Mapping[str, Any]) -> Segment:
    return Segment(**{**data, "words": _words(data["words"]), "warnings": _warnings(data)})


def _warnings(data: Mapping[str, Any]) -> tuple[TranscriptWarning, ...]:
    return tuple(TranscriptWarning(**w) for w in data.get("warnings", ()))
