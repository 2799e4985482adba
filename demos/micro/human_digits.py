"""People who say digits, as shards for the training: three speakers of the Free Spoken Digit Dataset (CC BY-SA 4.0).

    git clone https://github.com/Jakobovski/free-spoken-digit-dataset DATASET
    python demos/micro/human_digits.py --dataset DATASET --out SHARDS

Each recording is listed four times, and beside them are strings of two to five digits, laid together from recordings
of one speaker. Three of four are played slower or faster, which makes other voices of the three. The dataset's other
speakers are kept back: `evaluate_voices.py` measures with them.
"""

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from english import number_words
from everyday import is_reserved
from grammar import Sentence, compose, spoken_as
from kokoro import SAMPLE_RATE, Floats, Spoken, write_shard

TRAINING_SPEAKERS = ("lucas", "theo", "yweweler")
HELD_OUT_SPEAKERS = ("george", "jackson", "nicolas")

_TIMES = 4  # that each recording is listed
_STRINGS_PER_RECORDING = 2
_LONGEST_GAP_S = 0.25  # before a digit of a string
_CHANGED_SHARE = 0.75
_MOST_CHANGED = 1.27  # times faster or slower, and the voice as much higher or lower: a third of an octave
_QUIET = 0.05  # of the peak; what is quieter at the edges is not the word
_SHARD = 500  # sentences


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One digit of one speaker."""

    digit: int
    speaker: str
    samples: Floats  # (N,) at 16 kHz, the loudest 1


def read_recordings(dataset: Path, speakers: Sequence[str], *, most: int = 50) -> list[Recording]:
    """The first `most` recordings of each digit and speaker, in the order of their names."""
    found = []
    for path in sorted((dataset / "recordings").glob("*.wav")):
        digit, speaker, number = path.stem.split("_")
        if speaker in speakers and int(number) < most:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            mono = soxr.resample(samples[:, 0], rate, SAMPLE_RATE).astype(np.float32)
            found.append(Recording(int(digit), speaker, mono / np.abs(mono).max()))
    if not found:
        raise SystemExit(f"no recordings of {', '.join(speakers)} in {dataset / 'recordings'}")
    return found


def digits_sentence(digits: Sequence[int]) -> Sentence:
    """ "Four two." or "42."."""
    said = spoken_as(" ".join(map(number_words, digits)), "".join(map(str, digits)))
    return compose("英文", "{}.", [said])


def say(recordings: Sequence[Recording], gaps_s: Sequence[float]) -> Spoken:
    """One sentence of one speaker's digits, each behind its gap, and their times."""
    sentence = digits_sentence([each.digit for each in recordings])
    pieces: list[Floats] = []
    edges: list[tuple[float, float]] = []
    place = 0
    for recording, gap_s in zip(recordings, gaps_s, strict=True):
        gap = np.zeros(round(gap_s * SAMPLE_RATE), np.float32)
        loud = np.flatnonzero(np.abs(recording.samples) > _QUIET)
        start = place + len(gap)
        edges.append(((start + loud[0]) / SAMPLE_RATE, (start + loud[-1] + 1) / SAMPLE_RATE))
        pieces += [gap, recording.samples]
        place = start + len(recording.samples)
    row = {"language": sentence.language, "units": [astuple(unit) for unit in sentence.units]}
    return Spoken(row, f"human_{recordings[0].speaker}", np.concatenate(pieces), np.array(edges, np.float32))


def draw(recordings: Sequence[Recording], rng: random.Random) -> list[Spoken]:
    """All that is written, in a random order; no string that is reserved for held-out clips."""
    spoken = [say([_change(each, _draw_speed(rng))], [0.0]) for each in recordings for _ in range(_TIMES)]
    speakers = sorted({each.speaker for each in recordings})
    for _ in range(_STRINGS_PER_RECORDING * len(recordings)):
        speaker, speed = rng.choice(speakers), _draw_speed(rng)
        own = [each for each in recordings if each.speaker == speaker]
        picked = rng.choices(own, k=rng.randrange(2, 6))
        if not is_reserved(digits_sentence([each.digit for each in picked])):
            changed = [_change(each, speed) for each in picked]
            spoken.append(say(changed, [rng.uniform(0.0, _LONGEST_GAP_S) for _ in picked]))
    rng.shuffle(spoken)
    return spoken


def _draw_speed(rng: random.Random) -> float:
    reach = math.log(_MOST_CHANGED)
    return math.exp(rng.uniform(-reach, reach)) if rng.random() < _CHANGED_SHARE else 1.0


def _change(recording: Recording, speed: float) -> Recording:
    """Played so much faster: pitch and resonances rise as well, as of a smaller person."""
    changed = soxr.resample(recording.samples, SAMPLE_RATE * speed, SAMPLE_RATE).astype(np.float32)
    return replace(recording, samples=changed / np.abs(changed).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="a clone of the dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder of shards, beside those of speak.py")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    spoken = draw(read_recordings(arguments.dataset, TRAINING_SPEAKERS), random.Random(arguments.seed))
    for first in range(0, len(spoken), _SHARD):
        write_shard(arguments.out / f"human_{first:05d}.npz", spoken[first : first + _SHARD])
    hours = sum(len(each.samples) for each in spoken) / SAMPLE_RATE / 3600
    print(f"people: {len(spoken)} sentences, {hours:.2f} h")


if __name__ == "__main__":
    main()
