"""Transcript -> the formats of speech research tools: NIST's CTM and RTTM, and Praat's TextGrid."""

from collections.abc import Iterable

from ..transcript import Segment, Transcript, Word
from .cues import one_line
from .records import remarks

SPEAKER = "SPK0"  # of segments whose speaker is unknown, because speakers are not told apart
_LEAST_S = 0.001  # shortest interval of a TextGrid


def ctm_text(transcript: Transcript) -> str:
    """One line per word: `key channel start duration word confidence`. Segments without word times have no lines.

    Channels are counted from 1. If channels were split, all words of one channel stand before those of the next. If
    speakers are known, the last two fields of NIST's 2009 form follow: `lex speaker`.
    """
    key = _one_field(transcript.key)
    words = [word for segment in transcript.segments for word in segment.words or ()]
    words.sort(key=lambda word: word.channel or 0)
    lines = (
        f"{key} {(w.channel or 0) + 1} {w.start:.3f} {w.end - w.start:.3f} {_one_field(w.text)} {w.confidence:.3f}"
        + (f" lex {_one_field(w.speaker)}\n" if w.speaker else "\n")
        for w in words
    )
    return _comments(transcript) + "".join(lines)


def rttm_text(transcript: Transcript) -> str:
    """One line per turn: `SPEAKER key channel start duration <NA> <NA> speaker <NA> <NA>`.

    Channels are counted from 1. If speakers were not told apart, each segment is a turn.
    """
    key = _one_field(transcript.key)
    spoken = transcript.segments if transcript.turns is None else transcript.turns
    lines = (
        f"SPEAKER {key} {(each.channel or 0) + 1} {each.start:.3f} {each.end - each.start:.3f} <NA> <NA> "
        f"{_one_field(each.speaker or SPEAKER)} <NA> <NA>\n"
        for each in spoken
    )
    return _comments(transcript) + "".join(lines)


def textgrid_text(transcript: Transcript) -> str:
    """Praat's long text format, with the tiers "segments" and "words", and "warnings" if there are any.

    If channels were split, each channel has tiers of its own: "segments 1" and so on. So has each known speaker:
    "segments SPK0".
    """
    words = [word for segment in transcript.segments for word in segment.words or ()]
    ends = [segment.end for segment in transcript.segments] + [word.end for word in words]
    duration = max([transcript.duration, *ends, _LEAST_S])
    tiers: dict[str, list[_Interval]] = {}
    for suffix, segments in _tier_groups(transcript.segments).items():
        tiers["segments" + suffix] = _intervals(segments)
        tiers["words" + suffix] = _intervals(word for segment in segments for word in segment.words or ())
    if said := "; ".join(remarks(transcript)):
        tiers["warnings"] = [(0.0, duration, said)]
    duration = max([duration, *(end for intervals in tiers.values() for _, end, _ in intervals)])
    head = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        f"xmin = 0\nxmax = {duration:.6f}\ntiers? <exists>\nsize = {len(tiers)}\nitem []:\n"
    )
    return head + "".join(
        _tier(number, name, _without_gaps(intervals, duration), duration)
        for number, (name, intervals) in enumerate(tiers.items(), start=1)
    )


_Interval = tuple[float, float, str]


def _tier_groups(segments: Iterable[Segment]) -> dict[str, list[Segment]]:
    """The segments of each channel and speaker, by what their tiers' names end with; without any, one empty group."""
    groups: dict[str, list[Segment]] = {}
    for segment in sorted(segments, key=lambda segment: segment.channel or 0):
        channel = "" if segment.channel is None else f" {segment.channel + 1}"
        speaker = f" {one_line(segment.speaker)}" if segment.speaker else ""
        groups.setdefault(channel + speaker, []).append(segment)
    return groups or {"": []}


def _intervals(spoken: Iterable[Segment | Word]) -> list[_Interval]:
    """Segments or words as intervals in order, without overlap, each at least _LEAST_S long."""
    found: list[_Interval] = []
    clock = 0.0
    for each in spoken:
        start = max(each.start, clock)
        clock = max(each.end, start + _LEAST_S)
        found.append((start, clock, one_line(each.text)))
    return found


def _without_gaps(intervals: list[_Interval], duration: float) -> list[_Interval]:
    """The intervals with empty ones between them, because a tier must cover its whole time."""
    covered: list[_Interval] = []
    clock = 0.0
    for start, end, text in [*intervals, (duration, duration, "")]:
        if f"{start:.6f}" != f"{clock:.6f}":
            covered.append((clock, start, ""))
        covered.append((start, end, text))
        clock = end
    return covered[:-1]


def _tier(number: int, name: str, intervals: list[_Interval], duration: float) -> str:
    lines = [
        f"    item [{number}]:",
        '        class = "IntervalTier"',
        f'        name = "{_quoted(name)}"',
        "        xmin = 0",
        f"        xmax = {duration:.6f}",
        f"        intervals: size = {len(intervals)}",
    ]
    for index, (start, end, text) in enumerate(intervals, start=1):
        lines += [
            f"        intervals [{index}]:",
            f"            xmin = {start:.6f}",
            f"            xmax = {end:.6f}",
            f'            text = "{_quoted(text)}"',
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace('"', '""')


def _comments(transcript: Transcript) -> str:
    return "".join(f";; {remark}\n" for remark in remarks(transcript))


def _one_field(text: str) -> str:
    """The text as one field: white space, which separates fields, becomes "_"."""
    return "_".join(text.split()) or "_"
