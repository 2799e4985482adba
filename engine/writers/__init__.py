"""Transcript -> file formats.

    WRITERS["srt"](transcript)             -> the file's text
    write_file(transcript, Path("a.srt"))  -> the file, whole or not at all

    shape = SubtitleShape(max_line_width=32, max_lines=1, highlight_words=True)
    write_file(transcript, Path("a.vtt"), shape)    or formatted(transcript, "vtt", shape), the text

| format | holds | warnings and errors |
|---|---|---|
| txt | a line a segment | no place for them |
| json, jsonl | everything, indented or on one line | yes |
| srt, vtt, ass | cues that a viewer can read (cues.py) | vtt: NOTE; ass: comments; srt: no place |
| tsv | start, end (ms) and text of each segment | no place for them |
| ctm, rttm | words, speech (NIST's formats) | lines that begin with ;; |
| TextGrid | segments and words, for Praat | a tier of their own |
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from ..errors import ConfigError
from ..transcript import Transcript
from .annotations import ctm_text, rttm_text, textgrid_text
from .cues import Cue, CueWord, SubtitleShape, cues
from .records import JsonlWriter, json_text, jsonl_text, tsv_text, txt_text, write_jsonl
from .subtitles import ass_text, srt_text, vtt_text

__all__ = [
    "SUBTITLES",
    "WRITERS",
    "Cue",
    "CueWord",
    "JsonlWriter",
    "SubtitleShape",
    "Writer",
    "ass_text",
    "cues",
    "formatted",
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
}  # what has a shape

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


def formatted(transcript: Transcript, name: str, shape: SubtitleShape | None = None) -> str:
    """The text of one transcript in a format of WRITERS; subtitles have the shape that is given."""
    if shape is not None and name in SUBTITLES:
        return SUBTITLES[name](transcript, shape)
    return WRITERS[name](transcript)


def write_file(transcript: Transcript, path: Path, shape: SubtitleShape | None = None) -> None:
    """Write one transcript in the format that the path's suffix names; an existing file is replaced when all is there.

    UTF-8. A key from a file name that is not UTF-8 holds lone surrogates, which become \\udcxx.

    Raises:
        ConfigError: WRITERS has no such format. OSError: the file cannot be written.
    """
    name = path.suffix.removeprefix(".")
    if name not in WRITERS:
        raise ConfigError(f"{path}: the suffix names no format; allowed: {', '.join(WRITERS)}")
    part = path.with_name(f"{path.name}.part")
    part.write_text(formatted(transcript, name, shape), encoding="utf-8", errors="backslashreplace", newline="\n")
    os.replace(part, path)
