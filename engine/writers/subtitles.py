"""Transcript -> subtitle files: SRT, WebVTT and ASS, from the same cues.

With `highlight_words`, each word is marked while it is spoken:

- WebVTT has time stamps within a cue (https://www.w3.org/TR/webvtt1/, 4.2.2), and each word stands in <c>.
- SRT has no such time stamps. Each word gets a cue in which it stands in <u>, as Whisper writes it.
- ASS has karaoke tags: {\\k} with hundredths of a second.

A segment without word times cannot be marked. This is logged, and noted in the file if the format has notes.

Where speakers are known, SRT has the name before the text, WebVTT a voice span (<v Name>), and ASS the name in its
field and a colour for each speaker after the first.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from ..transcript import Transcript
from .cues import DEFAULT_SHAPE, Cue, SubtitleShape, cues, name_label, shape_warning
from .records import remarks, warning_line

_ASS_HEAD = """\
[Script Info]
ScriptType: v4.00+
PlayResX: 1920
PlayResY: 1080
WrapStyle: 2

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,64,&H00FFFFFF,&H000000FF,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,3,1,2,60,60,50,1
Style: Karaoke,Arial,64,&H0000FFFF,&H00FFFFFF,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,3,1,2,60,60,50,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
# In ASS, braces enclose commands, and no escape for them works in all players: full-width braces replace them. A
# backslash begins a command unless a word joiner follows it.
_ASS_COLOURS = ("", "00FFFF", "FFFF00", "80FF80", "FF80FF", "60A0FF")  # BBGGRR; the first speaker has the style's white
_ASS_TEXT = str.maketrans({"{": "｛", "}": "｝", "\\": "\\\u2060"})

logger = logging.getLogger(__name__)


def srt_text(transcript: Transcript, shape: SubtitleShape = DEFAULT_SHAPE) -> str:
    """SRT: cues numbered from 1, times as HH:MM:SS,mmm; empty if the transcript has no text."""
    shown: list[tuple[int, int, str]] = []
    for cue in _cues_and_notes(transcript, shape, names_shown=True)[0]:
        is_karaoke = shape.highlight_words and cue.is_timed
        copies = _underlined(cue) if is_karaoke else [(*_span(cue, _ms), "\n".join(cue.lines))]
        shown += ((start, end, name_label(cue.speaker) + text) for start, end, text in copies)
    return "\n".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(shown, start=1)
    )


def vtt_text(transcript: Transcript, shape: SubtitleShape = DEFAULT_SHAPE) -> str:
    """WebVTT, with the error and warnings as notes. `&`, `<` and `>` are escaped; `-->` would begin a cue."""
    found, notes = _cues_and_notes(transcript, shape)
    blocks = ["WEBVTT\n", *(f"NOTE {_escaped(note)}\n" for note in notes)]
    for cue in found:
        is_karaoke = shape.highlight_words and cue.is_timed
        text = _stamped(cue) if is_karaoke else "\n".join(map(_escaped, cue.lines))
        voice = f"<v {_escaped(cue.speaker)}>" if cue.speaker else ""
        start, end = _span(cue, _ms)
        blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{voice}{text}\n")
    return "\n".join(blocks)


def ass_text(transcript: Transcript, shape: SubtitleShape = DEFAULT_SHAPE) -> str:
    """Advanced SubStation Alpha, for libass and VSFilter, with the error and warnings as comments."""
    found, notes = _cues_and_notes(transcript, shape)
    spoken = []
    colours: dict[str | None, str] = {}
    for cue in found:
        if cue.speaker and cue.speaker not in colours:
            colour = _ASS_COLOURS[len(colours) % len(_ASS_COLOURS)]
            colours[cue.speaker] = f"{{\\c&H{colour}&}}" if colour else ""
        name = (cue.speaker or "").replace(",", ";")  # commas separate the fields
        is_karaoke = shape.highlight_words and cue.is_timed
        text = _karaoke(cue) if is_karaoke else r"\N".join(line.translate(_ASS_TEXT) for line in cue.lines)
        style = "Karaoke" if is_karaoke else "Default"
        times = ",".join(map(_ass_clock, _span(cue, _cs)))
        spoken.append(f"Dialogue: 0,{times},{style},{name},0,0,0,,{colours.get(cue.speaker, '')}{text}")
    head, rest = _ASS_HEAD.split("\n", maxsplit=1)
    return "\n".join([head, *(f"; {note}" for note in notes), rest + "\n".join([*spoken, ""])])


def _cues_and_notes(
    transcript: Transcript, shape: SubtitleShape, *, names_shown: bool = False
) -> tuple[list[Cue], list[str]]:
    """The cues, and notes: the transcript's error and warnings, and one about cues that break the shape."""
    found, notes = cues(transcript, shape, names_shown=names_shown), list(remarks(transcript))
    warning = shape_warning(found, shape)
    if warning is not None:
        logger.warning("%s: %s", transcript.key, warning.message)
        notes.append(warning_line(warning))
    return found, notes


def _underlined(cue: Cue) -> Iterator[tuple[int, int, str]]:
    """One copy of the cue for each word, with that word underlined, and one for each pause; times in milliseconds.

    A word shorter than a millisecond has no copy; if no word has one, the cue is shown as it is.
    """
    clock, last = _span(cue, _ms)
    for spoken, (start, end) in enumerate(_times_within(cue, _ms)):
        if start > clock:
            yield clock, start, "\n".join(cue.lines)
        if end > start:
            yield start, end, _marked(cue, partial(_underline, spoken))
        clock = end
    if last > clock:
        yield clock, last, "\n".join(cue.lines)


def _underline(spoken: int, number: int, text: str) -> str:
    return f"<u>{text}</u>" if number == spoken else text


def _stamped(cue: Cue) -> str:
    """The cue's lines with time stamps. WebVTT requires that they increase and lie within the cue."""
    stamps: list[str] = []
    last, cue_end = _span(cue, _ms)
    for start, _ in _times_within(cue, _ms):
        is_later = last < start < cue_end
        stamps.append(f"<{_clock(start, '.')}>" if is_later else "")
        last = start if is_later else last
    return _marked(cue, lambda number, text: f"{stamps[number]}<c>{_escaped(text)}</c>")


def _karaoke(cue: Cue) -> str:
    """The cue's lines, each word after a tag with its duration in hundredths of a second. Pauses have tags as well."""
    tags: list[str] = []
    clock = _cs(cue.start)
    for start, end in _times_within(cue, _cs):
        tags.append((f"{{\\k{start - clock}}}" if start > clock else "") + f"{{\\k{end - start}}}")
        clock = end
    return _marked(cue, lambda number, text: tags[number] + text.translate(_ASS_TEXT), line_end=r"\N")


def _times_within(cue: Cue, clock: Callable[[float], int]) -> Iterator[tuple[int, int]]:
    """Start and end of each word in the clock's unit, within the cue, in order and without overlap."""
    first, last = _span(cue, clock)
    for word in cue.words:
        start = min(max(clock(word.start), first), last)
        first = min(max(clock(word.end), start), last)
        yield start, first


def _span(cue: Cue, clock: Callable[[float], int]) -> tuple[int, int]:
    """Start and end of a cue in the clock's unit. They differ, because players skip a cue of zero length."""
    start = clock(cue.start)
    return start, max(clock(cue.end), start + 1)


def _marked(cue: Cue, mark: Callable[[int, str], str], line_end: str = "\n") -> str:
    """The cue's lines with each word replaced by `mark(number, text)`; white space stays outside the mark."""
    numbers = count()
    rows = []
    for row in cue.rows:
        shown = [mark(next(numbers), word.text.rstrip()) + " " * word.text.endswith(" ") for word in row]
        rows.append("".join(shown).rstrip())
    return line_end.join(rows)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _cs(seconds: float) -> int:
    return round(seconds * 100)


def _clock(time_ms: int, point: str) -> str:
    minutes, ms = divmod(time_ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _ass_clock(time_cs: int) -> str:
    minutes, cs = divmod(time_cs, 6_000)
    return f"{minutes // 60}:{minutes % 60:02d}:{cs // 100:02d}.{cs % 100:02d}"
