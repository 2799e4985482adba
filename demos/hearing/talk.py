"""What the scripts of this folder share: clips with their manifest, talk laid together from them, and RTTM files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform

LEVEL = 0.06  # root mean square of each clip in a talk, where full scale is 1
NOISE = 1e-4  # of the pauses


@dataclass(frozen=True)
class Talk:
    """Sentences of one speaker after another, and where (s) each begins and ends."""

    waveform: Waveform
    turns: list[tuple[float, float]]


def read(path: Path) -> Waveform:
    return load(expand_inputs(path)[0])


def manifest(directory: Path) -> list[dict[str, Any]]:
    """The rows of DIRECTORY/manifest.jsonl: file, text, speaker, style, seconds."""
    return [json.loads(line) for line in (directory / "manifest.jsonl").read_text().splitlines()]


def lay_together(directory: Path, *, half: int, pause_s: float, most: int) -> Talk:
    """Every second read sentence of 1.5 to 15 s, in a shuffled order in which the speaker changes each time."""
    rows = [row for row in manifest(directory) if row.get("style") == "read" and 1.5 < row["seconds"] < 15][half::2]
    rng = np.random.default_rng(half + 1)
    parts, turns, place = [np.zeros(SAMPLE_RATE // 2, np.float32)], [], SAMPLE_RATE // 2
    for row in _alternating([rows[i] for i in rng.permutation(len(rows))])[:most]:
        clip = _trimmed(read(directory / row["file"]))
        pause = (NOISE * rng.standard_normal(int(pause_s * SAMPLE_RATE))).astype(np.float32)
        turns.append((place / SAMPLE_RATE, (place + len(clip)) / SAMPLE_RATE))
        parts += [clip, pause]
        place += len(clip) + len(pause)
    return Talk(np.concatenate(parts), turns)


def with_babble(talk: Talk, others: Talk, snr_db: float) -> Talk:
    """The talk among six voices at once."""
    size = len(talk.waveform)
    noise = sum(np.roll(np.resize(others.waveform, size), i * size // 6 + i * SAMPLE_RATE) for i in range(6))
    scale = np.sqrt(np.mean(talk.waveform**2) / np.mean(np.square(noise)) / 10 ** (snr_db / 10))
    return Talk((talk.waveform + scale * noise).astype(np.float32), talk.turns)


def read_rttm(path: Path) -> list[tuple[float, float]]:
    """The turns (s) of an RTTM file."""
    fields = [line.split() for line in path.read_text().splitlines() if line.startswith("SPEAKER")]
    return [(float(each[3]), float(each[3]) + float(each[4])) for each in fields]


def _alternating(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many of the rows as go without a speaker twice in a row."""
    taken: list[dict[str, Any]] = []
    while (row := next((r for r in rows if not taken or r["speaker"] != taken[-1]["speaker"]), None)) is not None:
        taken.append(row)
        rows.remove(row)
    return taken


def _trimmed(clip: Waveform) -> Waveform:
    """The clip at LEVEL, from 10 ms before its first sound to 10 ms after its last."""
    clip = clip * np.float32(LEVEL / np.sqrt(np.mean(clip**2)))
    energy = np.sqrt(np.convolve(clip**2, np.ones(160) / 160, "same"))
    loud = np.flatnonzero(energy > 0.03 * energy.max())
    return clip[max(0, loud[0] - 160) : loud[-1] + 160]
