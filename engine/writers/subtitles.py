"""Transcript -> subtitle files: SRT, WebVTT and ASS, from the same cues."""

from ..transcript import Transcript
from .cues import cues
from .records import remarks

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

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
# Braces hold commands and have no escape that all players know; a backslash begins one unless something follows it.
_ASS_TEXT = str.maketrans({"{": "｛", "}": "｝", "\\": "\\\u2060"})


def srt_text(transcript: Transcript) -> str:
    """Cues numbered from 1, times HH:MM:SS,mmm; empty without segments or text."""
    blocks = []
    for number, cue in enumerate(cues(transcript), start=1):
        lines = "\n".join(cue.lines)
        blocks.append(f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{lines}\n")
    return "\n".join(blocks)


def vtt_text(transcript: Transcript) -> str:
    """WebVTT; error and warnings are notes. `&` and `<` are escaped, and `>`, so that no text reads as an arrow."""
    blocks = ["WEBVTT\n", *(f"NOTE {_escaped(remark)}\n" for remark in remarks(transcript))]
    for cue in cues(transcript):
        lines = "\n".join(map(_escaped, cue.lines))
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{lines}\n")
    return "\n".join(blocks)


def ass_text(transcript: Transcript) -> str:
    """Advanced SubStation Alpha, for libass and VSFilter; error and warnings are comments, which no player shows."""
    noted = [f"; {remark}" for remark in remarks(transcript)]
    spoken = []
    for cue in cues(transcript):
        text = r"\N".join(line.translate(_ASS_TEXT) for line in cue.lines)
        spoken.append(f"Dialogue: 0,{_centiseconds(cue.start)},{_centiseconds(cue.end)},Default,,0,0,0,,{text}")
    head, rest = _ASS_HEAD.split("\n", maxsplit=1)
    return "\n".join([head, *noted, rest + "\n".join([*spoken, ""])])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    minutes, ms = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _centiseconds(seconds: float) -> str:
    minutes, cs = divmod(round(seconds * 100), 6_000)
    return f"{minutes // 60}:{minutes % 60:02d}:{cs // 100:02d}.{cs % 100:02d}"
