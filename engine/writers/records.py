"""Transcript -> plain text, JSON, JSON lines and tables."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..closing import Closing
from ..transcript import Transcript, TranscriptWarning
from .cues import name_label, one_line
from .files import encoded


def txt_text(transcript: Transcript) -> str:
    """One line per segment, which begins with the speaker's name if that is known."""
    return "".join(f"{name_label(segment.speaker)}{one_line(segment.text)}\n" for segment in transcript.segments)


def json_text(transcript: Transcript) -> str:
    """The whole transcript, indented; non-ASCII text is not escaped."""
    return json.dumps(transcript.to_dict(), ensure_ascii=False, indent=2) + "\n"


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
        self._file: BinaryIO = path.open("ab" if append else "wb")

    def write(self, transcript: Transcript) -> None:
        self._file.write(encoded(jsonl_text(transcript)))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def write_jsonl(transcripts: Iterable[Transcript], path: Path) -> None:
    """Write one line per transcript, in the given order, each as soon as it arrives."""
    with JsonlWriter(path) as writer:
        for transcript in transcripts:
            writer.write(transcript)
