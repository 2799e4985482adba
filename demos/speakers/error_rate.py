"""The diarization error rate (DER) of hypotheses against references, both RTTM files of the same names.

    twostage-asr transcribe MEETINGS --speakers --format rttm,ctm --output-dir HYPOTHESES --model MODEL
    python demos/speakers/error_rate.py REFERENCES HYPOTHESES [--collar 0.25]

Where both folders also have an STM file of that name, or a CTM file whose words have speakers, cpWER says how much of
who said what is wrong.

DER = (missed + false alarm + confused speech) / reference speech, as NIST's md-eval and pyannote.metrics define it. It
counts frames of 10 ms. Overlapped speech counts once per speaker. Speakers are matched one to one so that the matched
time is greatest. A collar leaves out the time that is nearer than it to any start or end in the reference.
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from twostage_asr.engine.cli.error_rates import compare, mixed_units, normalise

FRAME_S = 0.01


class Turn(NamedTuple):
    """What one speaker says from `start` to `end`, in seconds."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True)
class ErrorRate:
    """Seconds of each kind of error, and the number of speakers."""

    speech_s: float
    missed_s: float
    false_alarm_s: float
    confused_s: float
    speakers: int
    speakers_found: int

    @property
    def rate(self) -> float:
        """0 is perfect; it exceeds 1 if more is wrong than there is speech."""
        return (self.missed_s + self.false_alarm_s + self.confused_s) / max(self.speech_s, FRAME_S)


def read_rttm(path: Path) -> list[Turn]:
    """The turns of an RTTM file, whose lines are: SPEAKER file channel start duration <NA> <NA> name <NA> <NA>."""
    rows = [line.split() for line in path.read_text("utf-8").splitlines() if line.startswith("SPEAKER")]
    return [Turn(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in rows]


def write_rttm(path: Path, turns: Iterable[Turn]) -> None:
    """Write turns as RTTM. The name of the recording is that of the file."""
    lines = [
        f"SPEAKER {path.stem} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {turn.speaker} <NA> <NA>\n"
        for turn in turns
    ]
    path.write_text("".join(lines), "utf-8")


def read_stm(path: Path) -> list[tuple[Turn, str]]:
    """The words of an STM file, whose lines are: file channel speaker start end word word ...

    A line's time is shared out among its words by their letters.
    """
    words: list[tuple[Turn, str]] = []
    for line in path.read_text("utf-8").splitlines():
        _, _, speaker, start, end, *spoken = line.split()
        spoken = _without_labels(spoken)
        edges = float(start) + (float(end) - float(start)) * np.cumsum([0, *map(len, spoken)]) / max(
            len("".join(spoken)), 1
        )
        turns = [Turn(float(a), float(b), speaker) for a, b in itertools.pairwise(edges)]
        words += zip(turns, spoken, strict=True)
    return words


def _without_labels(words: Iterable[str]) -> list[str]:
    """The words of an STM line that are said: one in angle brackets is a label."""
    return [word for word in words if not (word[0] == "<" and word[-1] == ">")]


def read_words(path: Path) -> dict[str, str]:
    """What each speaker says, in order of time, by an STM or a CTM file.

    A line of CTM is: file channel start duration word confidence lex speaker. Words without the last two are those of
    one more speaker, "".
    """
    said: list[tuple[float, str, str]] = []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith(";;"):
            continue
        if path.suffix == ".stm":
            _, _, speaker, start, _, *spoken = line.split()
            text = " ".join(_without_labels(spoken))
        else:
            _, _, start, _, text, _, *tags = line.split()
            speaker = tags[1] if tags else ""
        said.append((float(start), speaker, text))
    texts: dict[str, list[str]] = defaultdict(list)
    for _, speaker, text in sorted(said, key=lambda one: one[0]):
        texts[speaker].append(text)
    return {speaker: " ".join(parts) for speaker, parts in texts.items()}


def concatenated_error_rate(reference: Mapping[str, str], found: Mapping[str, str]) -> float:
    """cpWER, the concatenated minimum-permutation word error rate of what each speaker says.

    All that a speaker says is one text. Each speaker of the reference is compared with another one that was found, so
    that the insertions, deletions and substitutions of all pairs are fewest; who is left over on either side is
    compared with an empty text. The rate is their sum by the number of words in the reference. It was defined for the
    CHiME-6 challenge (Watanabe et al., 2020, arXiv:2004.09249). The errors of pairs add up, so that an assignment finds
    the least of all permutations.

    Texts are normalised and split as by `twostage-asr evaluate` for MER: in scripts without spaces, each character is a
    word.
    """
    spoken, heard = ([mixed_units(normalise(text)) for text in texts.values()] for texts in (reference, found))
    size = max(len(spoken), len(heard))
    spoken, heard = (texts + [[]] * (size - len(texts)) for texts in (spoken, heard))
    errors = np.array([[compare(one, other).errors for other in heard] for one in spoken]).reshape(size, size)
    return float(errors[linear_sum_assignment(errors)].sum() / max(sum(map(len, spoken)), 1))


def word_error_rate(words: Sequence[Turn], found: Sequence[Turn]) -> float:
    """The share of the reference's words that get a wrong speaker, or none.

    A word gets the speaker of the largest part of it, as in a transcript whose words and times are all right. Speakers
    are matched one to one so that most words are right.
    """
    heard = [speaker_of(word, found) for word in words]
    spoken, named = sorted({word.speaker for word in words}), sorted({name for name in heard if name is not None})
    counts = np.zeros((len(spoken), len(named)))
    for word, name in zip(words, heard, strict=True):
        if name is not None:
            counts[spoken.index(word.speaker), named.index(name)] += 1
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return float(1.0 - matched / len(words))


def speaker_of(word: Turn, found: Sequence[Turn]) -> str | None:
    """Whose turns have the largest part of a word; None if no turn has any of it."""
    shares: dict[str, float] = {}
    for turn in found:
        shared = min(word.end, turn.end) - max(word.start, turn.start)
        if shared > 0:
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared
    return max(shares, key=shares.__getitem__, default=None)


def error_rate(reference: Sequence[Turn], found: Sequence[Turn], collar: float = 0.0) -> ErrorRate:
    """Compare two sets of turns of one recording."""
    num_frames = round(max((turn.end for turn in [*reference, *found]), default=0.0) / FRAME_S)
    scored = _scored(reference, num_frames, collar)
    spoken, heard = _frames(reference, num_frames)[:, scored], _frames(found, num_frames)[:, scored]
    shared = spoken.astype(np.float32) @ heard.astype(np.float32).T
    pairs = zip(*linear_sum_assignment(shared, maximize=True), strict=True)
    matched = sum((shared[pair] for pair in pairs), 0.0)
    num_spoken, num_heard = spoken.sum(axis=0), heard.sum(axis=0)
    seconds = FRAME_S * np.array(
        [
            num_spoken.sum(),
            np.maximum(num_spoken - num_heard, 0).sum(),
            np.maximum(num_heard - num_spoken, 0).sum(),
            np.minimum(num_spoken, num_heard).sum() - matched,
        ]
    )
    return ErrorRate(*map(float, seconds), len({t.speaker for t in reference}), len({t.speaker for t in found}))


def _frames(turns: Sequence[Turn], num_frames: int) -> npt.NDArray[np.bool_]:
    """(speakers, frames): who speaks when."""
    names = sorted({turn.speaker for turn in turns})
    frames = np.zeros((len(names), num_frames), bool)
    for turn in turns:
        frames[names.index(turn.speaker), round(turn.start / FRAME_S) : round(turn.end / FRAME_S)] = True
    return frames


def _scored(reference: Sequence[Turn], num_frames: int, collar: float) -> npt.NDArray[np.bool_]:
    """(frames,): those outside of every collar."""
    scored = np.ones(num_frames, bool)
    for edge in (time for turn in reference for time in turn[:2]):
        scored[max(round((edge - collar) / FRAME_S), 0) : round((edge + collar) / FRAME_S)] = False
    return scored


def _words_of(stem: Path) -> dict[str, str] | None:
    files = (stem.with_name(stem.name + suffix) for suffix in (".stm", ".ctm"))
    return next((read_words(file) for file in files if file.is_file()), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", type=Path)
    parser.add_argument("hypotheses", type=Path)
    parser.add_argument("--collar", type=float, default=0.0, help="seconds on each side of a boundary")
    args = parser.parse_args()
    for path in sorted(args.references.glob("*.rttm")):
        result = error_rate(read_rttm(path), read_rttm(args.hypotheses / path.name), args.collar)
        line = f"{path.stem}\tDER {result.rate:.1%}\tspeakers {result.speakers}, found {result.speakers_found}"
        spoken, heard = (_words_of(folder / path.stem) for folder in (args.references, args.hypotheses))
        if spoken is not None and heard is not None:
            line += f"\tcpWER {concatenated_error_rate(spoken, heard):.1%}"
        print(line)


if __name__ == "__main__":
    main()
