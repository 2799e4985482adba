"""Transcript -> cues: subtitles that a viewer can read.

A cue keeps to a SubtitleShape and lasts at most CUE_MAX_S seconds. A longer segment with word times is cut between
words: after the end of a sentence, else at the last comma or pause, else after the last word that fits. A segment
without word times stays one cue, because the times within it are unknown. It keeps to the width of lines, but may have
too many of them.
"""

import functools
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import ConfigError
from ..transcript import Segment, Transcript, TranscriptWarning, Word

LINE_COLUMNS = 42
LINES_PER_CUE = 2
CUE_MAX_S = 7.0
CUE_MIN_S = 1.0  # a cue that ends early, after a sentence, lasts at least this long
PAUSE_S = 0.5  # a silence between words that is long enough for a cut

_SENTENCE_END = tuple(".!?…。！？")
_CLAUSE_END = (*_SENTENCE_END, *",;:，、；：")
_CLOSING = "\"'”’)]}」』】》）"  # may follow a mark that ends a sentence
# A unit that may not be cut: a run of letters, or one ideograph, with the punctuation around it.
_WIDE = r"\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_OPENING = "“‘«「『（【《〈"
_UNIT = re.compile(rf"[{_OPENING}]*[{_WIDE}][^\w\s{_OPENING}]*|[^\s{_WIDE}]+")
_NO_WIDTH = ("Mn", "Me", "Cf")  # Unicode categories without a width of their own: combining marks and format controls


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtitleShape:
    """How subtitles are cut and shown.

    Raises ConfigError for a number below 1.
    """

    max_line_width: int = LINE_COLUMNS  # columns; a wide character (Chinese, Japanese, Korean) takes two
    max_lines: int = LINES_PER_CUE  # of one cue
    max_words_per_cue: int | None = None  # an ideograph counts as a word; None: as many as fit
    highlight_words: bool = False  # mark each word while it is spoken (karaoke)

    def __post_init__(self) -> None:
        for name in ("max_line_width", "max_lines", "max_words_per_cue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")


DEFAULT_SHAPE = SubtitleShape()


@dataclass(frozen=True, slots=True, kw_only=True)
class CueWord:
    """A word as written, with the punctuation and white space around it, and its times."""

    start: float  # s
    end: float  # s
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """One subtitle."""

    start: float  # s
    end: float  # s
    rows: tuple[tuple[CueWord, ...], ...]  # its lines, as words
    is_timed: bool = True  # False: word times are unknown, and all words have the times of the cue
    speaker: str | None = None  # on one line; None if it is unknown who speaks

    @property
    def words(self) -> list[CueWord]:
        return [word for row in self.rows for word in row]

    @property
    def lines(self) -> list[str]:
        """The lines as shown. Only a single word that is too long makes a line too long."""
        return [_joined(row).rstrip() for row in self.rows]

    @property
    def text(self) -> str:
        """The text on one line."""
        return _joined(self.words).rstrip()


def cues(transcript: Transcript, shape: SubtitleShape = DEFAULT_SHAPE, *, names_shown: bool = False) -> list[Cue]:
    """Subtitles in order, without overlap. Their texts, joined, are the segments' texts, up to white space.

    If channels were split, cues of different channels may overlap, as their speech does. With `names_shown`, the first
    line of each cue leaves room for its name_label().
    """
    found: list[Cue] = []
    clocks: dict[int | None, float] = {}  # end (s) of the last cue of each channel
    for segment in transcript.segments:
        words, is_timed = _words_of(segment)
        speaker = segment.speaker and one_line(segment.speaker)
        indent = _columns(name_label(speaker)) if names_shown else 0
        for group in _groups(words, shape, indent) if is_timed else filter(None, [words]):
            start = max(group[0].start, clocks.get(segment.channel, 0.0))
            clocks[segment.channel] = end = max(group[-1].end, start + 0.001)  # players skip a cue of zero length
            rows = _wrap(group, shape.max_line_width, indent)
            found.append(Cue(start=start, end=end, rows=rows, is_timed=is_timed, speaker=speaker))
    return sorted(found, key=lambda cue: cue.start)


def name_label(speaker: str | None) -> str:
    """What stands before a text to say who speaks; empty if that is unknown."""
    return f"{one_line(speaker)}: " if speaker else ""


def shape_warning(found: Sequence[Cue], shape: SubtitleShape) -> TranscriptWarning | None:
    """A warning about cues that break the shape because they have no word times; None if there are none."""
    untimed = [cue for cue in found if not cue.is_timed]
    most_words = shape.max_words_per_cue or float("inf")
    too_long = sum(len(cue.rows) > shape.max_lines or len(cue.words) > most_words for cue in untimed)
    missing = [f"{too_long} of {len(found)} cues are longer than asked for"] if too_long else []
    if shape.highlight_words and untimed:
        missing.append(f"words are not highlighted in {len(untimed)} of {len(found)} cues")
    if not missing:
        return None
    return TranscriptWarning("no_word_times", f"without word times {' and '.join(missing)}")


def _words_of(segment: Segment) -> tuple[list[CueWord], bool]:
    """The text of a segment as words, and whether they have times of their own."""
    text = one_line(segment.text)
    units = [match.start() for match in _UNIT.finditer(text)]
    timed = _timed_words(text, units, segment.words or ())
    if timed:
        return timed, True
    bounds = [0, *units[1:], len(text)] if units else []
    whole = [CueWord(start=segment.start, end=segment.end, text=text[begin:end]) for begin, end in pairwise(bounds)]
    return whole, False


def _timed_words(text: str, units: Sequence[int], words: Sequence[Word]) -> list[CueWord]:
    """The text, cut before each unit in which a word begins; empty if the words do not occur in it in order."""
    begins: list[int] = []
    times: list[tuple[float, float]] = []
    end = 0  # end of the previous word, as an index into the text
    for word in words:
        position = text.find(word.text, end)
        if position < 0:
            return []
        begin = units[bisect_right(units, position) - 1]
        if begins and begin < end:  # within a unit, like the second word of "well-known": no cut before it
            times[-1] = (times[-1][0], word.end)
        else:
            begins.append(begin)
            times.append((word.start, word.end))
        end = position + len(word.text)
    bounds = [0, *begins[1:], len(text)] if begins else []
    return [
        CueWord(start=start, end=end, text=text[first:last])
        for (start, end), (first, last) in zip(times, pairwise(bounds), strict=True)
    ]


def _groups(words: Sequence[CueWord], shape: SubtitleShape, indent: int) -> list[list[CueWord]]:
    """Group words into cues, whose first lines begin after `indent` columns."""
    groups: list[list[CueWord]] = []
    current: list[CueWord] = []
    lines = _Lines(shape.max_line_width, indent)
    for word in words:
        while current and not _fits(word, current, lines, shape):
            cut = _cut(current)
            groups.append(current[:cut])
            current = current[cut:]
            lines = _Lines(shape.max_line_width, indent, current)
        current.append(word)
        lines.add(word)
        if _ends(word, _SENTENCE_END) and word.end - current[0].start >= CUE_MIN_S:
            groups.append(current)
            current, lines = [], _Lines(shape.max_line_width, indent)
    return [*groups, current] if current else groups


class _Lines:
    """Counts the lines that words fill, one word after the other. A longer word than a line gets a line of its own."""

    def __init__(self, width: int, indent: int, words: Sequence[CueWord] = ()) -> None:
        """`width` of each line and `indent` of the first one, in columns."""
        self.count = 1
        self._width = width
        self._used = indent  # columns of the last line
        self._is_empty = True  # whether the last line has no word
        for word in words:
            self.add(word)

    def begins_line(self, word: CueWord) -> bool:
        """Whether the word, without white space after it, has no room in the last line."""
        return self._has_no_room(word, _columns(word.text))

    def add(self, word: CueWord) -> bool:
        """Add a word. Returns whether it begins a line after the first."""
        columns = _columns(word.text)
        begins = self._has_no_room(word, columns)
        if begins:
            self.count += 1
            self._used = 0
        self._used += columns
        self._is_empty = False
        return begins

    def _has_no_room(self, word: CueWord, columns: int) -> bool:
        return not self._is_empty and self._used + columns - word.text.endswith(" ") > self._width


def _fits(word: CueWord, current: Sequence[CueWord], lines: _Lines, shape: SubtitleShape) -> bool:
    """Whether a cue of the current words, which fill these lines, has room for one more."""
    if word.end - current[0].start > CUE_MAX_S or len(current) >= (shape.max_words_per_cue or math.inf):
        return False
    return lines.count < shape.max_lines or (lines.count == shape.max_lines and not lines.begins_line(word))


def _cut(words: Sequence[CueWord]) -> int:
    """Number of words for the cue: up to the last comma or pause in the second half, else all."""
    for count in range(len(words) - 1, len(words) // 2, -1):
        if _ends(words[count - 1], _CLAUSE_END) or words[count].start - words[count - 1].end >= PAUSE_S:
            return count
    return len(words)


def _ends(word: CueWord, marks: tuple[str, ...]) -> bool:
    return word.text.rstrip().rstrip(_CLOSING).endswith(marks)


def _wrap(words: Sequence[CueWord], width: int, indent: int) -> tuple[tuple[CueWord, ...], ...]:
    """Break words into lines of at most `width` columns; a longer word gets a line of its own."""
    lines = _Lines(width, indent)
    rows: list[list[CueWord]] = [[]]
    for word in words:
        if lines.add(word):
            rows.append([])
        rows[-1].append(word)
    return tuple(map(tuple, rows))


def _joined(words: Sequence[CueWord]) -> str:
    return "".join(word.text for word in words)


def _columns(text: str) -> int:
    """Width in columns: wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return width_of(text) if len(text) == 1 else sum(map(width_of, text))


@functools.lru_cache(1 << 14)
def width_of(char: str) -> int:
    """Columns that a character takes."""
    if unicodedata.category(char) in _NO_WIDTH:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def one_line(text: str) -> str:
    """Join all white space to single spaces, because a blank line would end the cue in the file."""
    return " ".join(text.split())
