"""Transcript -> subtitle files: SRT, WebVTT and ASS, from the same cues.

With `highlight_words` each word is marked while it is spoken, in each format's own way: WebVTT has time stamps within a
cue (https://www.w3.org/TR/webvtt1/, 4.2.2) around words in <c>; SRT, which has none, has a cue for each word with that
word in <u>, as Whisper writes it; ASS has karaoke tags, {\\k} and hundredths of a second. What cannot be so, because a
segment has no word times, is logged, and noted where the format has a place for it.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from ..transcript import Transcript
from .cues import DEFAULT_SHAPE, Cue, SubtitleShape, cues, shape_warning
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
# Braces hold commands and have no escape that all players know; a backslash begins one unless something follows it.
_ASS_TEXT = str.maketrans({"{": "｛", "}": "｝", "\\": "\\\u2060"})

logger = logging.getLogger(__name__)


def srt_text(transcript: Transcript, shape: SubtitleShape = DEFAULT_SHAPE) -> str:
    """Cues numbered from 1, times HH:MM:SS,mmm; empty without segments or text."""
    shown: list[tuple[int, int, str]] = []
    for cue in _cues_and_notes(transcript, shape)[0]:
        if shape.highlight_words and cue.is_timed:
            shown += _underlined(cue)
        else:
            shown.append((_ms(cue.start), _ms(cue.end), "\n".join(cue.lines)))
    return "\n".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(shown, start=1)
    )


def vtt_text(transcript: Transcript, shape: SubtitleShape = DEFAULT_SHAPE) -> str:
    """WebVTT; error and warnings are notes. `&` and `<` are escaped, and `>`, so that no text reads as an arrow."""
    found, notes = _cues_and_notes(transcript, shape)
    blocks = ["WEBVTT\n", *(f"NOTE {_escaped(note)}\n" for note in notes)]
    for cue in found:
        is_karaoke = shape.highlight_words and cue.is_timed
        text = _stamped(cue) if is_karaoke else "\n".join(map(_escaped, cue.lines))
        blocks.append(f"{_clock(_ms(cue.start), '.')} --> {_clock(_ms(cue.end), '.')}\n{text}\n")
    return "\n".join(blocks)


def ass_text(transcript: Transcript, shape: SubtitleShape = DEFAULT_SHAPE) -> str:
    """Advanced SubStation Alpha, for libass and VSFilter; error and warnings are comments, which no player shows."""
    found, notes = _cues_and_notes(transcript, shape)
    spoken = []
    for cue in found:
        is_karaoke = shape.highlight_words and cue.is_timed
        text = _karaoke(cue) if is_karaoke else r"\N".join(line.translate(_ASS_TEXT) for line in cue.lines)
        style = "Karaoke" if is_karaoke else "Default"
        times = f"{_ass_clock(_cs(cue.start))},{_ass_clock(_cs(cue.end))}"
        spoken.append(f"Dialogue: 0,{times},{style},,0,0,0,,{text}")
    head, rest = _ASS_HEAD.split("\n", maxsplit=1)
    return "\n".join([head, *(f"; {note}" for note in notes), rest + "\n".join([*spoken, ""])])


def _cues_and_notes(transcript: Transcript, shape: SubtitleShape) -> tuple[list[Cue], list[str]]:
    """The cues, and what a reader should know of them and of the transcript."""
    found, notes = cues(transcript, shape), list(remarks(transcript))
    warning = shape_warning(found, shape)
    if warning is not None:
        logger.warning("%s: %s", transcript.key, warning.message)
        notes.append(warning_line(warning))
    return found, notes


def _underlined(cue: Cue) -> Iterator[tuple[int, int, str]]:
    """The cue once for each of its words, which is underlined, and once for each pause; times in milliseconds.

    A word of less than a millisecond has no cue.
    """
    clock = _ms(cue.start)
    for spoken, (start, end) in enumerate(_times_within(cue, _ms)):
        if start > clock:
            yield clock, start, "\n".join(cue.lines)
        if end > start:
            yield start, end, _marked(cue, partial(_underline, spoken))
        clock = end


def _underline(spoken: int, number: int, text: str) -> str:
    return f"<u>{text}</u>" if number == spoken else text


def _stamped(cue: Cue) -> str:
    """WebVTT wants the stamps of a cue to grow, and to lie within it."""
    stamps: list[str] = []
    last = _ms(cue.start)
    for start, _ in _times_within(cue, _ms):
        is_later = last < start < _ms(cue.end)
        stamps.append(f"<{_clock(start, '.')}>" if is_later else "")
        last = start if is_later else last
    return _marked(cue, lambda number, text: f"{stamps[number]}<c>{_escaped(text)}</c>")


def _karaoke(cue: Cue) -> str:
    """Each word after its time in hundredths of a second; a pause is the time of no word."""
    tags: list[str] = []
    clock = _cs(cue.start)
    for start, end in _times_within(cue, _cs):
        tags.append((f"{{\\k{start - clock}}}" if start > clock else "") + f"{{\\k{end - start}}}")
        clock = end
    return _marked(cue, lambda number, text: tags[number] + text.translate(_ASS_TEXT), line_end=r"\N")


def _times_within(cue: Cue, clock: Callable[[float], int]) -> Iterator[tuple[int, int]]:
    """When each word begins and ends, in the clock's unit: within the cue, none before the one before it."""
    first, last = clock(cue.start), clock(cue.end)
    for word in cue.words:
        start = min(max(clock(word.start), first), last)
        first = min(max(clock(word.end), start), last)
        yield start, first


def _marked(cue: Cue, mark: Callable[[int, str], str], line_end: str = "\n") -> str:
    """The cue's lines, with `mark(number, text)` in place of each word; white space stays outside."""
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
