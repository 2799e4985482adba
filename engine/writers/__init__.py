"""Transcript -> file formats.

    WRITERS["srt"](transcript)             # returns the file's text
    write_file(transcript, Path("a.srt"))  # writes the file, whole or not at all

    shape = SubtitleShape(max_line_width=32, max_lines=1, highlight_words=True)
    write_file(transcript, Path("a.vtt"), shape)  # formatted(transcript, "vtt", shape) returns the text

| format | content | warnings and errors |
|---|---|---|
| txt | one line per segment, after its speaker | left out |
| json, jsonl | everything, indented or on one line | included |
| srt, vtt, ass | cues that a viewer can read (cues.py) | vtt: NOTE; ass: comments; srt: left out |
| tsv | start, end (ms) and text of each segment | left out |
| ctm, rttm | words or speakers' turns, in NIST's formats | lines that begin with ;; |
| TextGrid | segments and words of each speaker, for Praat | a tier of their own |

The formats that leave warnings out have no place for them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from ..errors import ConfigError
from ..transcript import Transcript
from .annotations import ctm_text, rttm_text, textgrid_text
from .cues import Cue, CueWord, SubtitleShape, cues
from .files import encoded, replace_text, replacing
from .records import JsonlWriter, json_text, jsonl_text, tsv_text, txt_text, write_jsonl
from .subtitles import ass_text, srt_text, vtt_text

__all__ = [
    "OUTPUT_SUFFIXES",
    "SUBTITLES",
    "WRITERS",
    "Cue",
    "CueWord",
    "JsonlWriter",
    "SubtitleShape",
    "Writer",
    "ass_text",
    "cues",
    "encoded",
    "formatted",
    "replace_text",
    "replacing",
    "srt_text",
    "vtt_text",
    "write_file",
    "write_jsonl",
]

Writer: TypeAlias = Callable[[Transcript], str]

SUBTITLES: Mapping[str, Callable[[Transcript, SubtitleShape], str]] = {
    "srt": srt_text,
    "vtt": vtt_text,
    "ass": ass_text,
}  # the formats that a SubtitleShape applies to

WRITERS: Mapping[str, Writer] = {
    "txt": txt_text,
    "json": json_text,
    "jsonl": jsonl_text,
    "srt": srt_text,
    "vtt": vtt_text,
    "tsv": tsv_text,
    "ass": ass_text,
    "ctm": ctm_text,
    "TextGrid": textgrid_text,
    "rttm": rttm_text,
}
OUTPUT_SUFFIXES = (*WRITERS, "png", "part")  # what files of transcripts, and those in the making, end with


def formatted(transcript: Transcript, name: str, shape: SubtitleShape | None = None) -> str:
    """The text of one transcript in a format of WRITERS; `shape` applies to subtitles only."""
    if shape is not None and name in SUBTITLES:
        return SUBTITLES[name](transcript, shape)
    return WRITERS[name](transcript)


def write_file(transcript: Transcript, path: Path, shape: SubtitleShape | None = None) -> None:
    """Write one transcript, in UTF-8, in the format that the path's suffix names.

    Raises:
        ConfigError: WRITERS has no such format.
        OSError: the file cannot be written.
    """
    name = path.suffix.removeprefix(".")
    if name not in WRITERS:
        raise ConfigError(f"{path}: the suffix names no format; allowed: {', '.join(WRITERS)}")
    replace_text(path, formatted(transcript, name, shape))
