"""A long recording of held-out sentences with pauses, noises and tones between them; and how well it is transcribed.

    python demos/micro/long_audio.py make OUT.wav --minutes 60       # or OUT.mp3; OUT.jsonl says what is where
    python demos/micro/long_audio.py measure OUT.wav --model demos/micro/checkpoint
    python demos/micro/long_audio.py align OUT.wav --model demos/micro/checkpoint --seconds 100 600 3600

`make` needs espeak-ng (see espeak.py). `measure` transcribes the recording as one file, and the same sentences cut by
hand (their own clips, with 0.3 s of silence around them), and prints for both the character error rate (case and
punctuation count, spaces do not), and for the recording the errors of word starts, its speed, and the peak of this
process's memory until then.

`align` gives the command of that name the first seconds of the recording and their text, and prints for each length the
command's time and peak of memory, and the errors of word starts.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
PAUSE_S, SOUND_S = (0.3, 3.0), (2.0, 8.0)
SOUND_EVERY = 8  # clips
PADDING_S = 0.3
RUNS_A_SEED = 1000  # recordings of different seeds share no clip


def make(path: Path, minutes: float, seed: int) -> None:
    """Write the recording and, one line a clip, its text, start, end and words."""
    from heldout import draw_all
    from sounds import draw_sound

    rng, sounds = random.Random(seed), np.random.default_rng(seed)
    count = round(minutes * 60 / 4.5 / 2) + 8  # a clip and its pause take about 5 s
    drawn = list(draw_all({"en_clean": count, "zh_clean": count}, num_workers=2, first_run=RUNS_A_SEED * seed))
    rng.shuffle(drawn)
    lines, position = [], 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        for number, clip in enumerate(drawn):
            if position > minutes * 60 * SAMPLE_RATE:
                break
            file.write(pause := np.zeros(round(rng.uniform(*PAUSE_S) * SAMPLE_RATE), np.float32))
            position += len(pause)
            if number % SOUND_EVERY == 0:
                file.write(sound := draw_sound(sounds, rng.uniform(*SOUND_S)) * np.float32(rng.uniform(0.02, 0.5)))
                position += len(sound)
            start = position / SAMPLE_RATE
            file.write(clip.waveform)
            position += len(clip.waveform)
            line = {
                "text": "".join(s.text(itn=True, use_alternative=False) + " " for s in clip.recipe.sentences).strip(),
                "start": start,
                "end": position / SAMPLE_RATE,
                "words": [(word, start + a, start + b) for word, a, b in clip.words],
            }
            lines.append(json.dumps(line, ensure_ascii=False))
    path.with_suffix(".jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{path}: {position / SAMPLE_RATE / 60:.1f} minutes, {len(lines)} clips")


def measure(path: Path, model_dir: str, *, dynamic_silence: bool, by_hand: bool) -> None:
    """Print everything that the top of this file promises."""
    from twostage_asr.engine.console import quiet_libraries

    quiet_libraries()  # before torch and vLLM are imported
    from twostage_asr.engine import AutoModelVLLM

    truth = [json.loads(line) for line in path.with_suffix(".jsonl").read_text("utf-8").splitlines()]
    with AutoModelVLLM(model=model_dir, dtype="fp32", encoder_dtype="fp32") as model:
        started = time.perf_counter()
        (whole,) = model.generate(path, dynamic_silence=dynamic_silence)
        wall_s = time.perf_counter() - started
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if whole.status == "error":
            raise SystemExit(f"{path}: {whole.error}")
        texts = [r.text for r in model.generate(list(cut_by_hand(path, truth)), vad=None)] if by_hand else []
    print(f"{whole.duration / 60:.1f} minutes in {wall_s:.1f} s: RTFx {whole.duration / wall_s:.1f}")
    print(f"peak of memory: {peak_mb:.0f} MB")
    print(f"{len(whole.segments)} segments, {len(whole.warnings)} warnings; CER {cer(truth, [whole.text]):.2%}")
    if texts:
        print(f"the same sentences cut by hand: CER {cer(truth, texts):.2%}")
    errors = np.abs(list(start_errors(whole.words or (), [word for line in truth for word in line["words"]])))
    print(f"{len(errors)} word starts: median {np.median(errors):.3f} s, p95 {np.percentile(errors, 95):.3f} s")
    spoken = [(line["start"], line["end"]) for line in truth]
    stray = [s for s in whole.segments if not any(s.start < end and s.end > start for start, end in spoken)]
    print(f"{len(stray)} segments with text where nobody speaks {[s.text for s in stray]}")


class TimedWord(NamedTuple):
    text: str
    start: float


def measure_alignment(path: Path, model_dir: str, seconds: Sequence[float]) -> None:
    """Print what the top of this file promises of `align`."""
    truth = [json.loads(line) for line in path.with_suffix(".jsonl").read_text("utf-8").splitlines()]
    samples, _ = soundfile.read(path, dtype="int16")
    for length in seconds:
        spoken = [line for line in truth if line["end"] <= length]
        with tempfile.TemporaryDirectory() as folder:
            audio, text, times = (Path(folder) / name for name in ("part.wav", "part.txt", "part.ctm"))
            soundfile.write(audio, samples[: round(length * SAMPLE_RATE)], SAMPLE_RATE)
            text.write_text(" ".join(line["text"] for line in spoken), "utf-8")
            command = [sys.executable, "-m", "twostage_asr", "align", str(audio), str(text), "--output", str(times)]
            started = time.perf_counter()
            child = subprocess.Popen([*command, "--model", model_dir, "--device", "cpu"])
            _, status, usage = os.wait4(child.pid, 0)
            wall_s = time.perf_counter() - started
            if status:
                raise SystemExit(f"align ended with {os.waitstatus_to_exitcode(status)}")
            rows = [line.split() for line in times.read_text("utf-8").splitlines()]
        found = [TimedWord(row[4], float(row[2])) for row in rows]
        errors = np.abs(list(start_errors(found, [word for line in spoken for word in line["words"]])))
        print(
            f"{length:g} s: {wall_s:.1f} s, of a CPU {usage.ru_utime + usage.ru_stime:.1f} s, "
            f"peak of memory {usage.ru_maxrss / 1024:.0f} MB; {len(rows)} words, the start of {len(errors)} compared: "
            f"median {np.median(errors):.3f} s, p95 {np.percentile(errors, 95):.3f} s, most {errors.max():.3f} s"
        )


def cut_by_hand(path: Path, truth: list[dict[str, Any]]) -> Iterator[tuple[str, np.ndarray, int]]:
    """Each clip of the recording with silence around it."""
    padding = np.zeros(round(PADDING_S * SAMPLE_RATE), np.float32)
    samples, _ = soundfile.read(path, dtype="float32")
    for number, line in enumerate(truth):
        clip = samples[round(line["start"] * SAMPLE_RATE) : round(line["end"] * SAMPLE_RATE)]
        yield f"{number:05d}", np.concatenate([padding, clip, padding]), SAMPLE_RATE


def cer(truth: list[dict[str, Any]], texts: list[str]) -> float:
    """Edits over characters, without white space."""
    from kaldialign import edit_distance

    reference, hypothesis = ("".join("".join(ts).split()) for ts in ([line["text"] for line in truth], texts))
    return float(edit_distance(reference, hypothesis)["total"]) / len(reference)


def start_errors(found: Any, true: list[tuple[str, float, float]]) -> Iterator[float]:
    """Seconds, of the words that both have."""
    from kaldialign import align

    missing = ""
    ours, theirs = iter(found), iter(true)
    for spoken, written in align([w[0].lower() for w in true], [w.text.lower() for w in found], missing):
        start = next(theirs)[1] if spoken != missing else None
        word = next(ours) if written != missing else None
        if start is not None and word is not None and spoken == written:
            yield word.start - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("path", type=Path)
    maker.add_argument("--minutes", type=float, default=60.0)
    maker.add_argument("--seed", type=int, default=0)
    measurer = commands.add_parser("measure")
    measurer.add_argument("path", type=Path)
    measurer.add_argument("--model", required=True)
    measurer.add_argument("--fixed-silence", action="store_true", help="800 ms of silence end any segment")
    measurer.add_argument("--no-cut-by-hand", action="store_true", help="spare the comparison, and its memory")
    aligner = commands.add_parser("align")
    aligner.add_argument("path", type=Path)
    aligner.add_argument("--model", required=True)
    aligner.add_argument("--seconds", type=float, nargs="+", default=[100.0, 600.0, 3600.0])
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.path, arguments.minutes, arguments.seed)
    elif arguments.command == "align":
        measure_alignment(arguments.path, arguments.model, arguments.seconds)
    else:
        by_hand = not arguments.no_cut_by_hand
        measure(arguments.path, arguments.model, dynamic_silence=not arguments.fixed_silence, by_hand=by_hand)


if __name__ == "__main__":
    main()
