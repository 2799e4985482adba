"""Transcript -> cues: subtitles that a viewer can read.

A cue is at most LINES_PER_CUE lines of LINE_COLUMNS columns (a Chinese, Japanese or Korean character takes two) and
CUE_MAX_S seconds. Segments longer than that are cut between words, where word times exist: after the end of a sentence,
else at the last comma or pause, else at the last word that fits. A segment without word times stays one cue, however
long: its inner times are unknown.
"""

import re
import unicodedata
from dataclasses import dataclass

from ..transcript import Segment, Transcript, Word

LINE_COLUMNS = 42
LINES_PER_CUE = 2
CUE_MAX_S = 7.0
CUE_MIN_S = 1.0  # a cue is not ended early, after a sentence, before it has been seen this long
PAUSE_S = 0.5  # silence between words at which a cut reads well

_SENTENCE_END = tuple(".!?…。！？")
_CLAUSE_END = (*_SENTENCE_END, *",;:，、；：")
_CLOSING = "\"'”’)]}」』】》）"  # may follow a mark that ends a sentence
# What may not be torn apart: a run of letters with the marks around it, or one ideograph with the marks after it.
_WIDE = r"\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{_WIDE}][^\w\s]*|[^\s{_WIDE}]+|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """One subtitle."""

    start: float  # s
    end: float  # s
    text: str  # one line

    @property
    def lines(self) -> list[str]:
        """As they are shown: at most LINE_COLUMNS columns; only a longer word has a longer line."""
        return _wrap(self.text)


def cues(transcript: Transcript) -> list[Cue]:
    """Subtitles in order, without overlap: their texts joined are the segments' texts, up to white space.

    Where channels were split, the cues of one may overlap those of another, as what is said does.
    """
    found: list[Cue] = []
    clocks: dict[int | None, float] = {}  # when the last cue of each channel ends
    for segment in transcript.segments:
        for cue in _segment_cues(segment):
            start = max(cue.start, clocks.get(segment.channel, 0.0))
            clocks[segment.channel] = end = max(cue.end, start + 0.001)  # players skip a cue of no length
            found.append(Cue(start=start, end=end, text=cue.text))
    return sorted(found, key=lambda cue: cue.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A word as written, with the punctuation and white space up to the next one, and when it was spoken."""

    start: float
    end: float
    text: str


def _segment_cues(segment: Segment) -> list[Cue]:
    text = one_line(segment.text)
    pieces = _pieces(text, segment.words or ())
    if not text:
        return []
    if not pieces:
        return [Cue(start=segment.start, end=segment.end, text=text)]
    groups: list[list[_Piece]] = []
    current: list[_Piece] = []
    for piece in pieces:
        while current and not _fits([*current, piece]):
            cut = _cut(current)
            groups.append(current[:cut])
            current = current[cut:]
        current.append(piece)
        if _ends(piece, _SENTENCE_END) and piece.end - current[0].start >= CUE_MIN_S:
            groups.append(current)
            current = []
    groups += [current] if current else []
    return [Cue(start=g[0].start, end=g[-1].end, text=one_line("".join(p.text for p in g))) for g in groups]


def _pieces(text: str, words: tuple[Word, ...]) -> list[_Piece]:
    """The text, cut before each word; empty if the words are not found in it in order."""
    starts = []
    position = 0
    for word in words:
        position = text.find(word.text, position)
        if position < 0:
            return []
        starts.append(position)
        position += len(word.text)
    bounds = [0, *starts[1:], len(text)]  # marks before the first word belong to it
    return [
        _Piece(start=word.start, end=word.end, text=text[begin:end])
        for word, begin, end in zip(words, bounds, bounds[1:], strict=False)
    ]


def _fits(pieces: list[_Piece]) -> bool:
    is_short = pieces[-1].end - pieces[0].start <= CUE_MAX_S
    return is_short and len(_wrap("".join(piece.text for piece in pieces))) <= LINES_PER_CUE


def _cut(pieces: list[_Piece]) -> int:
    """How many pieces go into the cue: up to the last comma or pause in the second half, else all."""
    for count in range(len(pieces) - 1, len(pieces) // 2, -1):
        if _ends(pieces[count - 1], _CLAUSE_END) or pieces[count].start - pieces[count - 1].end >= PAUSE_S:
            return count
    return len(pieces)


def _ends(piece: _Piece, marks: tuple[str, ...]) -> bool:
    return piece.text.rstrip().rstrip(_CLOSING).endswith(marks)


def _wrap(text: str) -> list[str]:
    """Lines of at most LINE_COLUMNS columns; only a longer word has a longer line."""
    lines = [""]
    for unit in _UNIT.findall(text):
        if lines[-1] and _columns(lines[-1]) + _columns(unit.rstrip()) > LINE_COLUMNS:
            lines.append("")
        lines[-1] += unit if lines[-1] else unit.lstrip()
    return [line.rstrip() for line in lines if line.strip()]


def _columns(text: str) -> int:
    """Width on the screen: wide characters count two, combining marks none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def one_line(text: str) -> str:
    """White space, a blank line above all, would end a cue in the file."""
    return " ".join(text.split())
