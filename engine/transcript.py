"""The results that users receive: Transcript, Segment and Word, readable by attribute and by key, and as JSON.

Times are seconds (float) from the start of the audio. Confidences lie in [0, 1].
"""

import functools
import itertools
import json
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

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
    "no_speakers",
]
_ONLY_IF_KNOWN = ("channel", "speaker", "turns")  # left out of plain dicts while they are None
_NEVER_WRITTEN = "source"  # left out of plain dicts
_SHOWN_CHARS = 60  # longest text in repr()


@functools.cache
def _all_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    return operator.attrgetter(*names)


class _Record:
    """Lets a dataclass be read by key as well: r["text"] is r.text."""

    __slots__ = ()

    def keys(self) -> tuple[str, ...]:
        return tuple(self.__slots__)  # of a dataclass: the names of its fields

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle as a call with all fields: a third of the time that dataclasses' own way takes."""
        return type(self), _all_of(self.__slots__)(self)

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
    """One written word (one character of Chinese or Japanese), with its times and its confidence."""

    text: str
    start: float
    end: float
    confidence: float
    channel: int | None = None  # from 0 on; None unless channels="split"
    speaker: str | None = None  # "SPK0", "SPK1", ... or the name of a known speaker; None unless speakers=True


@dataclass(frozen=True, slots=True)
class SpeakerTurn(_Record):
    """A stretch in which one speaker talks."""

    start: float
    end: float
    speaker: str  # "SPK0", "SPK1", ... in the order of their first words, or the name of a known speaker
    overlap: bool = False  # more than one voice may be heard in it; the label is that of the larger share
    channel: int | None = None  # from 0 on; None unless channels="split"


@dataclass(frozen=True, slots=True)
class TranscriptWarning(_Record):
    """Something that a reader of the transcript should know; `message` has the details.

    - "no_word_times": there are no word times; the message says why.
    - "long_audio": the audio is longer than the model hears well in one pass, and was not cut.
    - "unfinished": the answer reached max_new_tokens, and the rest of the text is missing.
    - "repetition": the text loops, even after a second decode with a repetition penalty.
    - "no_speech": the text was dropped, because the CTC head or a VAD finds no speech that could be this text.
    - "disagreement": the text differs much from the CTC head's text.
    - "ctc_text": such a text was replaced by the CTC head's, because `fallback` asks for that.
    - "segment_failed": a segment of a recording could not be transcribed.
    - "no_speakers": the speakers of the input, or of a part of it, could not be told apart; the message says why.

    About the audio itself:
    - "filled_gap": the file lacks audio for a time (it begins late, or packets are missing), which became silence.
    - "joined_times": time stamps overlap or jump; no audio is missing, but times may differ from the file's.
    - "skipped_bytes": foreign bytes between the audio, such as the tags of joined files, were skipped.
    - "trailing_audio": a WAV file holds more than its header says; the rest was not read.
    - "missing_audio": a part of the file is missing, or could not be decoded.
    - "louder_channel": the channels cancel each other out, so one of them was used instead of their mean.
    - "stray_byte": live audio ended in the middle of a sample.
    """

    code: WarningCode
    message: str


@dataclass(frozen=True, slots=True, repr=False)
class Segment(_Record):
    """A stretch of speech that was decoded in one pass, or the part of it in which one speaker talks."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] | None
    confidence: float | None
    warnings: tuple[TranscriptWarning, ...] = ()
    channel: int | None = None  # from 0 on; None unless channels="split"
    speaker: str | None = None  # who says most of it; None unless speakers=True

    def __repr__(self) -> str:
        """One short line."""
        words = "no word times" if self.words is None else f"{len(self.words)} words"
        speaker = "" if self.speaker is None else f"{self.speaker!r}, "
        return f"Segment({self.start:.2f}-{self.end:.2f} s, {speaker}{_shortened(self.text)!r}, {words})"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle the words as columns, which takes a third of the time of one call for each."""
        return _rebuilt, (Segment, _packed(self.words), *_without_words(self))


@dataclass(frozen=True, slots=True)
class Token(_Record):
    """One token of the LLM's answer; an incomplete character reads as U+FFFD."""

    text: str
    log_prob: float  # natural logarithm


@dataclass(frozen=True, slots=True, repr=False)
class Transcript(_Record):
    """The result for one input.

    `status` is "error" if the input could not be transcribed. Then `error` says why, `error_code` is the code of the
    error's kind (errors.py lists them), and `text` is empty.

    `words` is None if no times could be found, which a warning explains, and empty if nothing was said. The words of a
    recording are those of the segments that have times. `warnings` includes those of the segments.
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
    turns: tuple[SpeakerTurn, ...] | None = None  # in order of time; None unless speakers=True
    source: Path | None = field(default=None, compare=False)  # the input, if it was a file; in no JSON

    def __repr__(self) -> str:
        """One short line; to_json() gives everything."""
        shown = {"key": self.key, "text": self.text, "status": self.status}
        if self.error is not None:
            shown["error"] = self.error
        return f"Transcript({', '.join(f'{name}={_shortened(value)!r}' for name, value in shown.items())})"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle the words as columns, and only once if they are those of the segments."""
        words, theirs = self.words, _words_of(self.segments)
        is_theirs = words is not None and len(words) == len(theirs) and all(map(operator.is_, words, theirs))
        return _rebuilt, (Transcript, _THEIRS if is_theirs else _packed(words), *_without_words(self))

    def _repr_html_(self) -> str:
        """What Jupyter shows: the audio, if it is a file of a few MB, and the text, whose words play it from there."""
        from .writers.html import transcript_html  # here, because writers import this file

        return transcript_html(self)

    @classmethod
    def failed(cls, key: str, error: ASRError, *, duration: float = 0.0) -> Self:
        """The result for an input that could not be transcribed because of this error."""
        return cls(key, duration=duration, status="error", error=str(error), error_code=error.code)

    def exception(self) -> ASRError | None:
        """The error as an exception of its kind; None if the status is "ok"."""
        return None if self.status == "ok" else error_of(self.error_code, self.error or "")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_json(self) -> str:
        """One line of JSON; non-ASCII text is not escaped."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What to_dict() gave. Raises TypeError for a field that is missing or unknown."""
        return cls(
            **{
                **data,
                "words": _words(data.get("words")),
                "segments": tuple(_segment(s) for s in data.get("segments", ())),
                "warnings": _warnings(data),
                "tokens": None if data.get("tokens") is None else tuple(Token(**t) for t in data["tokens"]),
                "turns": None if data.get("turns") is None else tuple(SpeakerTurn(**t) for t in data["turns"]),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What to_json() gave. Raises ValueError if it is no JSON, and as from_dict() does."""
        return cls.from_dict(json.loads(text))


_Columns: TypeAlias = tuple[tuple[Any, ...], ...]  # a tuple for each field of Word
_THEIRS = "segments"  # in place of columns
_FIELDS = [getattr(Word, name) for name in Word.__slots__]  # which can be set even in a frozen object


def _packed(words: tuple[Word, ...] | None) -> _Columns | None:
    return None if words is None else tuple(zip(*map(_all_of(Word.__slots__), words), strict=True))


def _unpacked(columns: _Columns | None) -> tuple[Word, ...] | None:
    """Field by field, in loops of C: Word's own constructor takes twice as long."""
    if not columns:
        return None if columns is None else ()
    words = tuple(map(object.__new__, itertools.repeat(Word, len(columns[0]))))
    for each, column in zip(_FIELDS, columns, strict=True):
        deque(map(each.__set__, words, column), maxlen=0)
    return words


def _without_words(record: Segment | Transcript) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The fields before the words, and those after them."""
    names = record.__slots__
    values, at = _all_of(names)(record), names.index("words")
    return values[:at], values[at + 1 :]


def _words_of(segments: Iterable[Segment]) -> tuple[Word, ...]:
    """Those of the segments that have times."""
    timed = [segment.words for segment in segments if segment.words is not None]
    return timed[0] if len(timed) == 1 else tuple(itertools.chain(*timed))


def _rebuilt(kind: type[Any], words: Any, before: tuple[Any, ...], after: tuple[Any, ...]) -> Any:
    """A Segment, or a Transcript, whose segments are the field after the words."""
    return kind(*before, _words_of(after[0]) if words == _THEIRS else _unpacked(words), *after)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _plain(value: Any) -> Any:
    if isinstance(value, _Record):
        names: tuple[str, ...] = value.keys()
        return {
            name: _plain(each) if isinstance(each, tuple | _Record) else each
            for name, each in zip(names, _all_of(names)(value), strict=True)
            if each is not None or name not in _ONLY_IF_KNOWN
            if name != _NEVER_WRITTEN
        }
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _words(data: list[dict[str, Any]] | None) -> tuple[Word, ...] | None:
    return None if data is None else tuple(Word(**w) for w in data)


def _segment(data: Mapping[str, Any]) -> Segment:
    return Segment(**{**data, "words": _words(data["words"]), "warnings": _warnings(data)})


def _warnings(data: Mapping[str, Any]) -> tuple[TranscriptWarning, ...]:
    return tuple(TranscriptWarning(**w) for w in data.get("warnings", ()))
