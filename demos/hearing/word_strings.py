"""Strings of human words with the times at which their sound begins and ends, for demos/micro/evaluate_timestamps.py.

    python demos/hearing/word_strings.py CLIPS OUT
    python demos/micro/evaluate_timestamps.py demos/micro/checkpoint OUT/manifest.jsonl

CLIPS holds manifest.jsonl and clips of single words. The digits of each speaker are laid together, five at a time, with
pauses of 0.1 to 0.4 s. `--orders 8` does so eight times, in other orders and with other pauses. A word
lasts from its first to its last loud sample.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
from talk import NOISE, manifest, read, trimmed

from twostage_asr.engine.audio.waveform import SAMPLE_RATE

DIGITS = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
WORDS = 5
EDGE = 160  # samples that `trimmed` keeps before and after the sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--orders", type=int, default=1)
    parser.add_argument("--pause", type=float, nargs=2, default=(0.1, 0.4), help="shortest and longest, s")
    parser.add_argument("--speakers", nargs="+", help="default: all")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in manifest(args.clips) if row["text"] in DIGITS]
    speakers = args.speakers or sorted({row["speaker"] for row in rows})
    lines = []
    for order in range(args.orders):
        rng = np.random.default_rng(order)
        for speaker in speakers:
            own = [row for row in rows if row["speaker"] == speaker]
            own = [own[i] for i in rng.permutation(len(own))]
            for first in range(0, len(own), WORDS):
                part = own[first : first + WORDS]
                clips = [trimmed(read(args.clips / row["file"])) for row in part]
                waveform, times = string_of(clips, args.pause, rng)
                name = f"{speaker}_{order}_{first // WORDS}.wav"
                soundfile.write(args.out / name, waveform, SAMPLE_RATE)
                spoken = " ".join(row["text"] for row in part)
                words = [[row["text"], *time] for row, time in zip(part, times, strict=True)]
                lines.append(json.dumps({"source": name, "text": spoken, "spoken": spoken, "words": words}))
    (args.out / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def string_of(
    clips: list[np.ndarray], pause_s: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The clips with pauses between them, and where (s) each one's sound begins and ends."""
    parts, times, place = [np.zeros(SAMPLE_RATE // 2)], [], SAMPLE_RATE // 2
    for clip in clips:
        pause = NOISE * rng.standard_normal(int(rng.uniform(*pause_s) * SAMPLE_RATE))
        times.append(((place + EDGE) / SAMPLE_RATE, (place + len(clip) - EDGE) / SAMPLE_RATE))
        parts += [clip, pause]
        place += len(clip) + len(pause)
    return np.concatenate(parts), times


if __name__ == "__main__":
    main()
