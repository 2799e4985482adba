"""People's recordings for the training: texts in the manner of the grammars, and words cut out of them.

    python demos/micro/people.py --fsdd DATASET --an4 DATASET --speech-commands DATASET --out DIR
    python demos/micro/people.py --an4 DATASET --held-out --out DIR      # AN4's test set, to examine what is trained

people_sets.py says what the data sets are. Writes DIR/manifest.jsonl and 16 kHz FLAC files. A line has "file", "text",
"speaker" and "words": each word, when it begins and ends, and how sure that is. The checkpoint's CTC head finds these
times (--model). `make_checkpoint.py --people DIR` draws what it hears from there (train/people.py).
"""

import argparse
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from english import MONTHS, number_words
from everyday import DAYS, known_words
from grammar import Sentence, Unit, compose, same, spoken_as
from people_sets import FSDD_SPEAKERS, Row, an4, fsdd, manifest, speech_commands

SAMPLE_RATE = 16_000
LEAST_SPEAKERS = 8  # who say a word that the grammars do not have; then it is learned
SURE = 0.5  # least confidence of a word that is cut out
_QUIET = 0.08  # of the loudest 10 ms; what is quieter at the edges is not the word
_HOP = SAMPLE_RATE // 100
_BATCH = 32
DIGITS = {number_words(digit): digit for digit in range(10)} | {"oh": 0}
_SMALL = (word for value in range(100) for word in number_words(value).split())
_NUMBER_WORDS = frozenset((*_SMALL, "oh", "hundred", "thousand"))
_CAPITALS = {word.lower(): word for word in (*MONTHS, *DAYS)}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Words of one speaker."""

    speaker: str
    words: tuple[str, ...]
    samples: Floats  # (N,) at 16 kHz, the loudest 1
    edges: Floats  # (W, 2) start and end of each word in seconds
    confidences: tuple[float, ...]  # in these times


def sentence_of(words: Sequence[str], learned: Collection[str]) -> Sentence | None:
    """As the grammars write it, or None where they have no one way to: "one fifty" may be a time or a number.

    Digits and cardinal numbers are figures, letters are capitals; other words must be `learned`.
    """
    units: list[Unit] = []
    place = 0
    while place < len(words):
        kind = _kind(words, place)
        end = place + 1
        while kind != "word" and end < len(words) and _kind(words, end) == kind:
            end += 1
        unit = _unit(kind, words[place:end], learned)
        if unit is None:
            return None
        units.append(unit)
        place = end
    return compose("英文", " ".join("{}" for _ in units) + ".", units)


def _kind(words: Sequence[str], place: int) -> str:
    word, follower = words[place], words[place + 1 : place + 2]
    if word in _NUMBER_WORDS:
        return "number"
    is_article = word == "a" and any(len(other) > 1 and other not in _NUMBER_WORDS for other in follower)
    return "letter" if len(word) == 1 and not is_article else "word"


def _unit(kind: str, words: Sequence[str], learned: Collection[str]) -> Unit | None:
    spoken = " ".join(words)
    if kind == "letter":
        return Unit(spoken=spoken, written=spoken.upper(), plain=spoken.upper())
    if kind == "number":
        if all(word in DIGITS for word in words) and spoken != "oh":
            return spoken_as(spoken, "".join(str(DIGITS[word]) for word in words))
        return spoken_as(spoken, str(_cardinals()[spoken])) if spoken in _cardinals() else None
    return same(_CAPITALS.get(spoken, spoken)) if spoken in learned else None


@cache
def _cardinals() -> dict[str, int]:
    return {number_words(value): value for value in range(10, 10_000)}


def learned_words(spoken: Sequence[tuple[str, Sequence[str]]]) -> frozenset[str]:
    """What the grammars know, and what enough of the speakers say; `spoken` are speakers and their words."""
    speakers = Counter(word for _, word in {(speaker, word) for speaker, words in spoken for word in words})
    often = {word for word, count in speakers.items() if count >= LEAST_SPEAKERS}
    return known_words() | often | _CAPITALS.keys()


def read_audio(file: Path) -> Floats:
    """(N,) at 16 kHz, the loudest 1."""
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return loud(soxr.resample(samples.mean(1), rate, SAMPLE_RATE).astype(np.float32))


def loud(samples: Floats) -> Floats:
    """The same, with the loudest 1."""
    return samples / max(float(np.abs(samples).max()), 1e-6)


def read_people(folder: Path) -> list[Recording]:
    """What `main` wrote."""
    found = []
    for row in map(json.loads, (folder / "manifest.jsonl").read_text("utf-8").splitlines()):
        words, starts, ends, confidences = zip(*row["words"], strict=True)
        edges = np.array([starts, ends], np.float32).T
        found.append(Recording(row["speaker"], words, read_audio(folder / row["file"]), edges, confidences))
    return found


def _align(waveforms: Sequence[Floats], texts: Sequence[str], model: Path) -> Iterator[list[list[Any]] | None]:
    """Each text's words, [word, start, end, confidence], or None where the CTC head finds no room for them."""
    import torch
    from evaluate_timestamps import ctc_hidden, load

    from twostage_asr.engine.words.pauses import edges_at_sound

    acoustic, aligner = load(model)
    for first in range(0, len(texts), _BATCH):
        batch = waveforms[first : first + _BATCH]
        hidden = [ctc_hidden(acoustic, torch.from_numpy(waveform)) for waveform in batch]
        durations = [len(waveform) / SAMPLE_RATE for waveform in batch]
        alignments = aligner.align(hidden, texts[first : first + _BATCH], durations)
        for text, waveform, alignment in zip(texts[first : first + _BATCH], batch, alignments, strict=True):
            words = edges_at_sound(alignment.words or (), waveform)
            is_whole = len(words) == len(text.split())
            timed = zip(text.split(), words, strict=True) if is_whole else ()
            yield [[word, each.start, each.end, each.confidence] for word, each in timed] or None


def _at_sound(waveform: Floats, word: str) -> list[list[Any]]:
    """A recording's only word: from the first to the last 10 ms that are not quiet."""
    levels = np.sqrt(np.square(waveform[: len(waveform) // _HOP * _HOP]).reshape(-1, _HOP).mean(1))
    loud = np.flatnonzero(levels > _QUIET * levels.max())
    return [[word, int(loud[0]) * _HOP / SAMPLE_RATE, int(loud[-1] + 1) * _HOP / SAMPLE_RATE, 1.0]]


def prepare(rows: Sequence[Row], model: Path, out: Path) -> None:
    """Write the recordings and when their words are said."""
    out.mkdir(parents=True, exist_ok=True)
    waveforms = [read_audio(row.file) for row in rows]
    long = [number for number, row in enumerate(rows) if " " in row.text]
    aligned = _align([waveforms[number] for number in long], [rows[number].text for number in long], model)
    timed = dict(zip(long, aligned, strict=True)) if long else {}
    lines = []
    for number, (row, waveform) in enumerate(zip(rows, waveforms, strict=True)):
        words = timed[number] if number in timed else _at_sound(waveform, row.text)
        if words is None:
            print(f"left out, no times: {row.file.name}, {row.text}")
            continue
        name = f"{number:05d}.flac"
        soundfile.write(out / name, waveform * 0.99, SAMPLE_RATE, subtype="PCM_16")
        line = {"file": name, "text": row.text, "speaker": row.speaker, "words": words}
        lines.append(json.dumps(line, ensure_ascii=False))
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(lines)} recordings of {len({row.speaker for row in rows})} people")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", type=Path, help="clone of the Free Spoken Digit Dataset")
    parser.add_argument("--an4", type=Path, help="AN4: a folder with etc/ and wav/")
    parser.add_argument("--speech-commands", type=Path, help="Speech Commands: a folder for each word")
    parser.add_argument("--manifest", type=Path, nargs="*", default=[], help="of other recordings")
    parser.add_argument("--held-out", action="store_true", help="the test speakers of AN4 and Speech Commands")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "checkpoint", help="finds times of words")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.held_out and arguments.fsdd:
        parser.error("--held-out is of the other sets: evaluate_voices.py --digits reads FSDD's speakers itself")
    rows = [row for path in arguments.manifest for row in manifest(path)]
    if arguments.fsdd:
        rows += fsdd(arguments.fsdd, FSDD_SPEAKERS)
    if arguments.an4:
        rows += an4(arguments.an4, held_out=arguments.held_out)
    if arguments.speech_commands:
        rows += speech_commands(arguments.speech_commands, held_out=arguments.held_out)
    prepare(rows, arguments.model, arguments.out)


if __name__ == "__main__":
    main()
