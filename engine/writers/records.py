"""Transcript -> plain text, JSON, JSON lines and tables."""

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ..closing import Closing
from ..transcript import Transcript, TranscriptWarning
from .cues import name_label, one_line

_NESTING = {dict, list}
_AT_ONCE = 1_000  # records that are encoded in one call, during which no other thread runs: about 2 ms


def txt_text(transcript: Transcript) -> str:
    """One line per segment, which begins with the speaker's name if that is known."""
    return "".join(f"{name_label(segment.speaker)}{one_line(segment.text)}\n" for segment in transcript.segments)


def json_text(transcript: Transcript) -> str:
    """The whole transcript, indented; non-ASCII text is not escaped."""
    return _indented(transcript.to_dict(), "\n") + "\n"


def _indented(value: Any, line_end: str) -> str:
    """What json.dumps(value, indent=2) gives, in half the time: the fast encoder cannot indent before Python 3.14.

    That encoder writes lists of flat records, and its separators end the lines. `line_end` is the end of a line and
    the indentation of `value`.
    """
    if not value or not isinstance(value, dict | list):
        return _encoder(line_end).encode(value)
    inner = line_end + "  "
    if isinstance(value, dict):
        items = [f'"{name}": {_indented(each, inner)}' for name, each in value.items()]
        return f"{{{inner}{f',{inner}'.join(items)}{line_end}}}"
    if all(isinstance(each, dict) and _is_flat(each) for each in value):
        items = [_flat_records(value[i : i + _AT_ONCE], inner) for i in range(0, len(value), _AT_ONCE)]
    else:
        items = [_indented(each, inner) for each in value]
    return f"[{inner}{f',{inner}'.join(items)}{line_end}]"


def _is_flat(record: dict[str, Any]) -> bool:
    return bool(record) and _NESTING.isdisjoint(map(type, record.values()))


def _flat_records(records: list[dict[str, Any]], line_end: str) -> str:
    field = line_end + "  "
    text = _encoder(field).encode(records)[2:-2]
    # No string holds the end of a line unescaped, so these characters occur between two records alone.
    return f"{{{field}" + text.replace(f"}},{field}{{", f"{line_end}}},{line_end}{{{field}") + f"{line_end}}}"


@functools.cache
def _encoder(line_end: str) -> json.JSONEncoder:
    return json.JSONEncoder(ensure_ascii=False, separators=(f",{line_end}", ": "))


def jsonl_text(transcript: Transcript) -> str:
    """The whole transcript on one line."""
    return transcript.to_json() + "\n"


def tsv_text(transcript: Transcript) -> str:
    """Whisper's table: a header, and one line per segment with start (ms), end (ms) and text."""
    rows = (f"{s.start * 1000:.0f}\t{s.end * 1000:.0f}\t{one_line(s.text)}\n" for s in transcript.segments)
    return "start\tend\ttext\n" + "".join(rows)


def remarks(transcript: Transcript) -> Iterator[str]:
    """The error and the warnings, one line each."""
    if transcript.error is not None:
        yield one_line(f"error: {transcript.error}")
    yield from map(warning_line, transcript.warnings)


def warning_line(warning: TranscriptWarning) -> str:
    return one_line(f"warning: {warning.code}: {warning.message}")


class JsonlWriter(Closing):
    """Write transcripts to a file, one JSON object per line. Each line is flushed before write() returns.

    An existing file is replaced, or continued if `append`.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        # A key from a file name that is not UTF-8 has lone surrogates; backslashreplace writes them as JSON's \udcxx.
        self._file: TextIO = path.open(
            "a" if append else "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        )

    def write(self, transcript: Transcript) -> None:
        self._file.write(jsonl_text(transcript))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def write_jsonl(transcripts: Iterable[Transcript], path: Path) -> None:
    """Write one line per transcript, in the given order, each as soon as it arrives."""
    with JsonlWriter(path) as writer:
        for transcript in transcripts:
            writer.write(transcript)
