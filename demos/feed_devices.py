"""How fast does one process feed several devices? It hands inputs to stand-ins, which do nothing but take their time.

    python demos/feed_devices.py --counts 1,2,4 --rate 900 --clips 20000

Each stand-in is a process, as with `devices=`, that finishes `--rate` clips a second, in groups, and a moment without
clips is lost to it. Neither reads audio, so that nothing is measured but the way of the inputs there and of the
transcripts back. The share of linear is the rate over that of all stand-ins together. What one thread spends on a clip
bounds this process elsewhere: at 100 us it feeds 10,000 clips a second at most. The others, one for each device, copy.
"""

import argparse
import importlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.console import spare_loaded_objects
from twostage_asr.engine.devices.replicas import Replicas
from twostage_asr.engine.families import family_named
from twostage_asr.engine.run_options import TranscribeOptions, transcribe_options
from twostage_asr.engine.transcript import Segment, Transcript, Word

CLIP_S = 10.0
NUM_WORDS = 30
GROUP = 32  # clips that are finished at a time
HELD = 512  # clips that a stand-in has taken up, as an engine has
NOISE_S = 600.0  # in memory, which all clips are cut from


def a_transcript(key: str) -> Transcript:
    """Of objects of its own, because a message holds what several transcripts share only once."""
    words = tuple(Word(f"word{i}", i / 3, i / 3 + 0.3, i / NUM_WORDS) for i in range(NUM_WORDS))
    text = " ".join(word.text for word in words)
    return Transcript(
        key=key, text=text, words=words, segments=(Segment(0.0, CLIP_S, text, words, 0.9),), duration=CLIP_S
    )


class StandIn:
    """In place of a Transcriber: finishes so many clips a second."""

    def __init__(self, rate: float) -> None:
        self._group_s = GROUP / rate

    def run(self, inputs: Iterable[AudioInput | None], options: TranscribeOptions) -> Iterator[tuple[int, Transcript]]:
        held: deque[tuple[int, str]] = deque()
        num_taken, is_over, source, due = 0, False, iter(inputs), time.monotonic()
        while not is_over or held:
            while not is_over and len(held) < HELD and time.monotonic() < due:
                item = next(source, _OVER)
                is_over = item is _OVER
                if isinstance(item, AudioInput):
                    held.append((num_taken, item.key))
                    num_taken += 1
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self._group_s, time.monotonic()) if held else time.monotonic() + self._group_s
            for _ in range(min(GROUP, len(held))):
                place, key = held.popleft()
                yield place, a_transcript(key)

    def close(self) -> None:
        pass


_OVER: Any = object()


def inputs(form: str, count: int) -> list[AudioInput]:
    """Clips of CLIP_S in memory, which are views of the same noise; or paths, where nothing is."""
    if form == "wav":
        return expand_inputs([Path(f"/nowhere/{number:06d}.wav") for number in range(count)])
    noise = np.random.default_rng(0).standard_normal(int(NOISE_S * SAMPLE_RATE), np.float32)
    size, last = int(CLIP_S * SAMPLE_RATE), int((NOISE_S - CLIP_S) * SAMPLE_RATE)
    return expand_inputs([(noise[(at := 1000 * n % last) : at + size], SAMPLE_RATE) for n in range(count)])


def measure(count: int, form: str, args: argparse.Namespace) -> None:
    items, options = inputs(form, args.clips), transcribe_options()
    loads = [("cpu", partial(StandIn, args.rate)) for _ in range(count)]
    with Replicas(family_named("fun_asr_nano"), loads) as model:
        spare_loaded_objects()
        list(
            model.run(items[: 2 * HELD * count], options)
        )  # the memory of the arenas is taken when it is first written
        begun, begun_cpu, begun_thread = time.perf_counter(), time.process_time(), time.thread_time()
        num_results = sum(1 for _ in model.run(items, options))
        wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
        thread_s = time.thread_time() - begun_thread
    assert num_results == args.clips
    rate, linear = args.clips / wall_s, count * args.rate
    print(
        f"{count} x {form:6}: {rate:8.1f} clips/s, {100 * rate / linear:5.1f} % of linear, "
        f"{1e6 * cpu_s / args.clips:.0f} us of CPU a clip, {1e6 * thread_s / args.clips:.0f} of them in one thread",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--rate", type=float, default=900.0, help="clips a second of each stand-in")
    parser.add_argument("--clips", type=int, default=20_000)
    args = parser.parse_args()
    for form in ("memory", "wav"):
        for count in args.counts:
            measure(count, form, args)


if __name__ == "__main__":
    importlib.import_module("feed_devices").main()  # the name by which other processes find StandIn
