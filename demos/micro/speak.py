"""Speak a plan with Kokoro into shards, on a GPU if there is one.

    python demos/micro/speak.py --model DIR --plan DIR/plan.jsonl --out SHARDS --seconds 150

Shards are written as they are done and skipped when it runs again.
"""

import argparse
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
import soxr
import torch
from graph import Graph
from kokoro import SAMPLE_RATE, Floats, Spoken, draw_style, natives, read_voices, write_shard
from phonemes import SPACE

_KOKORO_RATE = 24_000
_FRAME = 600  # Kokoro's samples per unit of duration
_SHARD = 10  # sentences
_SPEEDS, _HELD_OUT_SPEEDS = (0.75, 1.5), (0.75, 1.3)  # the fastest voices of all are among the held-out ones
_KEPT_S = 0.04  # of the silence around a sentence
_QUIET = 0.01  # of the peak; what is quieter at the edges is silence
_LATE_S = 0.04  # that a phoneme is heard before its turn: durations are what an aligner made of speech, and late


class Speaker:
    """Kokoro's model and voices, on a GPU if there is one."""

    def __init__(self, model: Path, *, held_out: bool) -> None:
        torch.set_num_threads(1)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._graph = Graph(model, self._device)
        self._voices = read_voices(model / "voices.npz", held_out=held_out)
        self._held_out = held_out

    def draw_style(self, letters: str, rng: random.Random) -> tuple[str, Floats]:
        """See draw_style; held-out voices are not blended."""
        if self._held_out:
            name = rng.choice(natives(self._voices, letters))
            return name, self._voices[name]
        return draw_style(self._voices, letters, rng)

    def speak(self, words: list[list[int]], style: Floats, speed: float) -> tuple[Floats, Floats]:
        """Waveform at 16 kHz, and start and end of each word (W, 2) in seconds."""
        tokens = [0, *(token for word in words for token in word), 0]
        feeds = {
            "tokens": torch.tensor([tokens]),
            "style": torch.from_numpy(style[min(len(tokens) - 2, len(style) - 1)][None]),
            "speed": torch.tensor([speed]),
        }
        found = self._graph.run({name: tensor.to(self._device) for name, tensor in feeds.items()})
        waveform, durations = (each.float().cpu().numpy().reshape(-1) for each in found)
        return _trim(waveform, _edges(words, np.cumsum(durations) * _FRAME / _KOKORO_RATE))


def _edges(words: list[list[int]], ends: Floats) -> Floats:
    """Start and end of each word in seconds (W, 2), from the ends of all phonemes, the silence before them first.

    Where speech goes on, the space before a word already sounds like the word; where it pauses, it is the pause. So the
    word begins in the middle of it.
    """
    edges, place = [], 1
    for word in words:
        gap = 1 if word[0] == SPACE else 0
        start = (ends[place - 1] + ends[place + gap - 1]) / 2
        edges.append((start, ends[place + len(word) - 1]))
        place += len(word)
    return np.array(edges, np.float32) - _LATE_S


def _trim(waveform: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """At 16 kHz, without most of the silence around it, in which no word is: durations count it to the last phoneme."""
    samples = soxr.resample(waveform, _KOKORO_RATE, SAMPLE_RATE).astype(np.float32)
    loud = np.flatnonzero(np.abs(samples) > _QUIET * np.abs(samples).max())
    kept = round(_KEPT_S * SAMPLE_RATE)
    first, last = max(int(loud[0]) - kept, 0), int(loud[-1]) + kept
    heard = edges.clip(loud[0] / SAMPLE_RATE, (loud[-1] + 1) / SAMPLE_RATE)
    return samples[first:last], heard - np.float32(first / SAMPLE_RATE)


def speak(model: Path, plan_file: Path, out: Path, *, seconds: float, workers: int, held_out: bool) -> None:
    """Speak the plan in `workers` processes, shard by shard, for at most `seconds`."""
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + seconds
    context = multiprocessing.get_context("fork")
    arguments = [(model, plan_file, out, deadline, held_out, index, workers) for index in range(workers)]
    processes = [context.Process(target=_speak_some, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    shards = sorted(out.glob("*.npz"))
    samples = sum(int(np.load(shard)["lengths"].sum()) for shard in shards)
    print(f"Kokoro: {len(shards)} shards, {samples / SAMPLE_RATE / 3600:.2f} h", flush=True)
    if failed := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"{len(failed)} of {workers} processes ended with {failed[0]}, where 0 is right")


def _speak_some(
    model: Path, plan_file: Path, out: Path, deadline: float, held_out: bool, index: int, count: int
) -> None:
    speaker = Speaker(model, held_out=held_out)
    speeds = _HELD_OUT_SPEEDS if held_out else _SPEEDS
    lines = plan_file.read_text("utf-8").splitlines()
    for number in range(index, -(-len(lines) // _SHARD), count):
        path = out / f"{number:05d}.npz"
        if path.exists():
            continue
        rng = random.Random(f"kokoro voices {number}")
        spoken: list[Spoken] = []
        for text in lines[number * _SHARD : (number + 1) * _SHARD]:
            row = json.loads(text)
            name, style = speaker.draw_style(row["voices"], rng)
            samples, edges = speaker.speak(row["words"], style, rng.uniform(*speeds))
            spoken.append(Spoken(row, name, samples, edges))
            if time.time() > deadline:
                break
        write_shard(path, spoken)
        if time.time() > deadline:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder that kokoro.py's export wrote")
    parser.add_argument("--plan", type=Path, required=True, help="file that kokoro.py's plan wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", action="store_true", help="with the voices that training never has")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of speaking at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    speak(
        arguments.model,
        arguments.plan,
        arguments.out,
        seconds=arguments.seconds,
        workers=arguments.workers,
        held_out=arguments.held_out,
    )


if __name__ == "__main__":
    main()
