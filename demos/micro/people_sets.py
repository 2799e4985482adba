"""Recordings of people with their texts: where public data sets keep them, and who is kept back for measuring.

The Free Spoken Digit Dataset (CC BY-SA 4.0), a clone of https://github.com/Jakobovski/free-spoken-digit-dataset: six
speakers, each digit 50 times. AN4 (Carnegie Mellon University; free for any purpose with its notice): 84 speakers who
spell, count and give commands, of whom ten are its test set. Speech Commands (CC BY 4.0; version 0.02, unpacked): 35
words of thousands of speakers. Any other set is a manifest.jsonl of {"file", "text", "speaker"}, its files beside it.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from english import number_words

FSDD_SPEAKERS = ("lucas", "theo", "yweweler")
FSDD_HELD_OUT = ("george", "jackson", "nicolas")

_AN4_LINE = re.compile(r"(?:<s> )?(?P<text>[A-Z ]+?)(?: </s>)? \((?P<name>\w+-(?P<speaker>\w+)-\w+)\)")
_AN4_FOLDERS = {"train": "an4_clstk", "test": "an4test_clstk"}
_MOST_HEARD, _MOST_HELD_OUT = 200, 20  # recordings of a word of Speech Commands


@dataclass(frozen=True, slots=True)
class Row:
    """One recording."""

    file: Path
    text: str  # lower-case words; letters that are spelled are words
    speaker: str


def fsdd(dataset: Path, speakers: Sequence[str], *, most: int = 50) -> list[Row]:
    """The first `most` recordings of each digit and speaker, in the order of their names."""
    found = []
    for file in sorted((dataset / "recordings").glob("*.wav")):
        digit, speaker, number = file.stem.split("_")
        if speaker in speakers and int(number) < most:
            found.append(Row(file, number_words(int(digit)), f"fsdd-{speaker}"))
    if not found:
        raise SystemExit(f"no recordings of {', '.join(speakers)} in {dataset / 'recordings'}")
    return found


def an4(dataset: Path, *, held_out: bool) -> list[Row]:
    """AN4's training set, or its test set, whose speakers no training hears."""
    part = "test" if held_out else "train"
    lines = (dataset / "etc" / f"an4_{part}.transcription").read_text("utf-8").splitlines()
    found = []
    for line in filter(str.strip, lines):
        match = _AN4_LINE.fullmatch(line.strip())
        if match is None:
            raise SystemExit(f"{line!r} of an4_{part}.transcription is not a text and (file-speaker-b)")
        file = dataset / "wav" / _AN4_FOLDERS[part] / match["speaker"] / f"{match['name']}.sph"
        found.append(Row(file, match["text"].lower(), f"an4-{match['speaker']}"))
    return found


def speech_commands(dataset: Path, *, held_out: bool) -> list[Row]:
    """Some recordings of each word, drawn with a fixed seed: of those in testing_list.txt, or of all other speakers.

    https://arxiv.org/abs/1804.03209: a file is <word>/<speaker>_nohash_<number>.wav.
    """
    listed = (dataset / "testing_list.txt").read_text("utf-8").split()
    tested = {_speaker(Path(name)) for name in listed}
    files = [dataset / name for name in listed] if held_out else dataset.glob("[!_]*/*_nohash_*.wav")
    by_word: dict[str, list[Path]] = {}
    for file in sorted(files):
        if held_out or _speaker(file) not in tested:
            by_word.setdefault(file.parent.name, []).append(file)
    if not by_word:
        raise SystemExit(f"no recordings of Speech Commands in {dataset}")
    rng, most = random.Random(0), _MOST_HELD_OUT if held_out else _MOST_HEARD
    drawn = ((word, rng.sample(found, min(len(found), most))) for word, found in by_word.items())
    return [Row(file, word, f"gsc-{_speaker(file)}") for word, files in drawn for file in files]


def _speaker(file: Path) -> str:
    return file.name.split("_")[0]


def manifest(path: Path) -> list[Row]:
    """The rows of a manifest.jsonl."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [Row(path.parent / row["file"], row["text"].lower(), row["speaker"]) for row in rows]
