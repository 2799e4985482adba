"""Lay meetings together from clips of one speaker each: NAME.wav and NAME.rttm.

    python demos/speakers/meetings.py CLIPS OUTPUT --speakers 4 --minutes 10 --overlap 0.1 --seed 1

CLIPS/manifest.jsonl has one line for each clip: {"file": "a.flac", "speaker": "anna"}. A turn is a random part of a
clip, of 1 s to --longest seconds. Each next turn begins after a pause of up to a second, or, for the wanted share of
speech, before the last one has ended. The reference is silent where a clip is silent for more than 0.3 s.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from error_rate import Turn, write_rttm

RATE = 16_000
_SHORTEST_S = 1.0
_GREATEST_PAUSE_S = 1.0
_SILENCE_S = 0.3
_FRAME = RATE // 100


class Meeting:
    """The samples and the turns of a meeting that is being laid together."""

    def __init__(self, seconds: float, longest_s: float) -> None:
        self.samples = np.zeros(round((seconds + 2 * longest_s) * RATE), np.float32)
        self.turns: list[Turn] = []
        self.end = 0.0  # of the last turn
        self.speech = self.overlapped = 0.0

    def add(self, start: float, clip: npt.NDArray[np.float32], speaker: str) -> None:
        first = round(start * RATE)
        self.samples[first : first + len(clip)] += clip
        duration = len(clip) / RATE
        self.turns += [Turn(start + begin, start + end, speaker) for begin, end in speech_of(clip)]
        self.speech += duration
        self.overlapped += max(0.0, self.end - start)
        self.end = max(self.end, start + duration)


def speech_of(clip: npt.NDArray[np.float32]) -> list[tuple[float, float]]:
    """The parts within 35 dB of the loudest 10 ms, joined over pauses of up to 0.3 s: (start, end) in seconds."""
    frames = clip[: len(clip) // _FRAME * _FRAME].reshape(-1, _FRAME)
    energy = np.square(frames).mean(axis=1)
    spans: list[tuple[float, float]] = []
    for time in np.flatnonzero(energy > energy.max(initial=0.0) * 10**-3.5).tolist():
        start, end = time / 100, (time + 1) / 100
        if spans and start - spans[-1][1] <= _SILENCE_S:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans


def lay(
    clips: dict[str, list[Path]], seconds: float, overlap: float, chance: random.Random, longest_s: float = 12.0
) -> Meeting:
    """Turns of these speakers, of about `seconds` in all, of which the share `overlap` has two voices."""
    meeting = Meeting(seconds, longest_s)
    last = ""
    while meeting.end < seconds:
        speaker = chance.choice([name for name in clips if name != last] or [last])
        clip = _part(chance.choice(clips[speaker]), longest_s, chance)
        duration = len(clip) / RATE
        start = meeting.end + chance.uniform(0.0, _GREATEST_PAUSE_S)
        if last and meeting.overlapped < overlap * meeting.speech:
            before = meeting.turns[-1]
            shared = min(chance.uniform(0.5, 4.0), duration / 2, (before.end - before.start) / 2)
            start = meeting.end - shared
        meeting.add(start, clip, speaker)
        last = speaker
    meeting.samples = meeting.samples[: round(meeting.end * RATE)]
    return meeting


def _part(path: Path, longest_s: float, chance: random.Random) -> npt.NDArray[np.float32]:
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != RATE or samples.ndim != 1:
        raise SystemExit(f"{path} must be mono at {RATE} Hz")
    length = round(min(chance.uniform(_SHORTEST_S, longest_s), len(samples) / RATE) * RATE)
    first = chance.randint(0, len(samples) - length)
    part = samples[first : first + length]
    level = float(np.sqrt(np.square(part).mean()))
    return np.asarray(part * (0.05 / max(level, 1e-4)), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--speakers", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--overlap", type=float, default=0.0, help="share of the speech with two voices")
    parser.add_argument("--longest", type=float, default=12.0, help="seconds of the longest turn")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    clips: dict[str, list[Path]] = defaultdict(list)
    for line in (args.clips / "manifest.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        clips[row["speaker"]].append(args.clips / row["file"])
    chosen = {name: clips[name] for name in chance.sample(sorted(clips), args.speakers)}
    meeting = lay(chosen, args.minutes * 60, args.overlap, chance, args.longest)
    args.output.mkdir(parents=True, exist_ok=True)
    name = f"{args.speakers}speakers_{args.minutes:g}min_{round(args.overlap * 100)}overlap_{args.seed}"
    soundfile.write(args.output / f"{name}.wav", np.clip(meeting.samples, -1, 1), RATE)
    write_rttm(args.output / f"{name}.rttm", sorted(meeting.turns))
    print(f"{name}: {meeting.end:.0f} s, overlap {meeting.overlapped / meeting.speech:.1%}")


if __name__ == "__main__":
    main()
