"""What the scripts of this folder share: clips with their manifest, talk laid together from them, and RTTM files.

A talk can be put among noise and other voices, and far from its microphone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform

FloatArray: TypeAlias = "npt.NDArray[np.float64]"

LEVEL = 0.06  # root mean square of each clip in a talk, where full scale is 1
NOISE = 1e-4  # of the pauses


@dataclass(frozen=True)
class Talk:
    """Sentences of one speaker after another, and where (s) each begins and ends."""

    waveform: Waveform
    turns: list[tuple[float, float]]
    texts: list[str]


def read(path: Path) -> Waveform:
    return load(expand_inputs(path)[0])


def manifest(directory: Path) -> list[dict[str, Any]]:
    """The rows of DIRECTORY/manifest.jsonl: file, text, speaker, style, seconds."""
    return [json.loads(line) for line in (directory / "manifest.jsonl").read_text().splitlines()]


def lay_together(
    directory: Path,
    *,
    half: int,
    pause_s: tuple[float, float],
    most: int,
    styles: Sequence[str] = ("read",),
    language: str | None = None,
    order: int = 0,
) -> Talk:
    """Every second sentence of 1.5 to 15 s, in a shuffled order in which the speaker changes each time.

    `pause_s`: the shortest and the longest pause between two of them. `styles`: how those of a style begin.
    `language`: of all of them; None takes any. `order`: each number gives another order and other pauses.
    """
    rows = [row for row in manifest(directory) if row.get("style", "").startswith(tuple(styles))]
    rows = [row for row in rows if language in (None, row["language"])]
    rows = [row for row in rows if 1.5 < row["seconds"] < 15][half::2]
    rng = np.random.default_rng(half + 1 + 100 * order)
    rows = _alternating([rows[i] for i in rng.permutation(len(rows))])[:most]
    parts, turns, place = [np.zeros(SAMPLE_RATE // 2, np.float32)], [], SAMPLE_RATE // 2
    for row in rows:
        clip = trimmed(read(directory / row["file"]))
        pause = (NOISE * rng.standard_normal(int(rng.uniform(*pause_s) * SAMPLE_RATE))).astype(np.float32)
        turns.append((place / SAMPLE_RATE, (place + len(clip)) / SAMPLE_RATE))
        parts += [clip, pause]
        place += len(clip) + len(pause)
    return Talk(np.concatenate(parts), turns, [row["text"] for row in rows])


def with_noise(talk: Talk, noise: FloatArray, snr_db: float) -> Talk:
    scale = np.sqrt(np.mean(talk.waveform**2) / np.mean(np.square(noise)) / 10 ** (snr_db / 10))
    return replace(talk, waveform=(talk.waveform + scale * noise).astype(np.float32))


def babble(others: Talk, size: int) -> FloatArray:
    """Six voices at once."""
    long = np.resize(others.waveform, size)
    return np.sum([np.roll(long, i * size // 6 + i * SAMPLE_RATE) for i in range(6)], axis=0)


def white(size: int) -> FloatArray:
    return np.random.default_rng(0).standard_normal(size)


def from_afar(talk: Talk) -> Talk:
    """The talk 20 dB quieter, in a room that reverberates for 0.6 s and is louder than the direct sound by 3 dB."""
    size = int(0.6 * SAMPLE_RATE)
    room = np.random.default_rng(0).standard_normal(size) * 10 ** (-3 * np.arange(size) / size)  # falls by 60 dB
    room *= np.sqrt(10**0.3 / np.sum(room**2))
    room[0] = 1.0
    padded = len(talk.waveform) + size
    heard = np.fft.irfft(np.fft.rfft(talk.waveform, padded) * np.fft.rfft(room, padded), padded)
    return replace(talk, waveform=(0.1 * heard[: len(talk.waveform)]).astype(np.float32))


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


def trimmed(clip: Waveform) -> Waveform:
    """The clip at LEVEL, from 10 ms before its first sound to 10 ms after its last."""
    clip = clip * np.float32(LEVEL / np.sqrt(np.mean(clip**2)))
    loud = np.flatnonzero(is_loud(clip))
    return clip[max(0, loud[0] - 160) : loud[-1] + 160]


def is_loud(clip: Waveform) -> npt.NDArray[np.bool_]:
    """For each sample: the 10 ms around it are within 30 dB of the loudest, and 10 dB above the quietest tenth."""
    level = np.sqrt(np.convolve(clip**2, np.ones(160) / 160, "same"))
    return np.asarray(level > max(0.03 * level.max(), 3 * np.quantile(level, 0.1)))
