"""How soon a few clips are transcribed, and how soon a process writes its first text: with the fast lane and without.

    python demos/benchmark_small.py --random                                   # the published sizes, random weights
    python demos/benchmark_small.py --model demos/micro/checkpoint --backend torch --passes 3
    python demos/benchmark_small.py --model demos/micro/checkpoint --random    # noise, and drafts as for random weights

Each row is a load: clips at once, in memory or from MP3, without and with word times. p50 and p95 are of the time from
the audio to the last transcript, in milliseconds. tokens/step and accepted say what the drafts have saved in the fast
lane. Each way of running has a process of its own, whose first text is timed from the start of the process, once with
what was compiled before and once, with --cold, without.

With --random, each token of a draft agrees with the probability --agreement (twostage_asr.engine.bench.agreeing).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from twostage_asr.engine.console import quiet_libraries, spare_loaded_objects

quiet_libraries()  # before torch and vLLM are imported

import soundfile

from twostage_asr.convert.export import ensure_converted
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.decode import SAMPLE_RATE, decode_audio
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.bench.agreeing import AGREEMENT, with_agreeing_drafts
from twostage_asr.engine.bench.figures import percentile_s
from twostage_asr.engine.bench.load import Form, Load, random_load
from twostage_asr.engine.bench.machine import process_age_s
from twostage_asr.engine.bench.measure import counts_of, transcribe
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.decoder.base import DecodingCounts
from twostage_asr.engine.transcriber import Transcriber

CLIP = Path(__file__).parent / "micro" / "clips" / "en_long.flac"
FORMS: tuple[Form, ...] = ("memory", "mp3")
WARM_UPS = 3
CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT")  # of what is compiled
HEAD = "lane       clips  kept in  times    p50 ms   p95 ms   tokens/step  accepted"


def one_clip(form: Form, seconds: float, folder: Path, *, is_random: bool) -> Load:
    """A load of one clip."""
    if is_random:
        return random_load([round(seconds * SAMPLE_RATE)], form, folder / form)
    if form == "memory":
        return Load(form=form, items=expand_inputs([(decode_audio(CLIP), SAMPLE_RATE)]))
    mp3 = folder / "clip.mp3"
    soundfile.write(mp3, decode_audio(CLIP), SAMPLE_RATE)
    return Load(form=form, items=expand_inputs([mp3]))


def loads_of(args: argparse.Namespace, folder: Path) -> dict[Form, Load]:
    return {form: one_clip(form, args.seconds, folder, is_random=args.random) for form in FORMS}


@dataclass(frozen=True, slots=True)
class Row:
    """What a load has taken."""

    clips: int
    form: str
    timestamps: bool
    p50_ms: float
    p95_ms: float
    tokens_per_step: float | None  # of the fast lane; None: vLLM has decoded
    accepted: float | None

    def __str__(self) -> str:
        times = "with" if self.timestamps else "without"
        saved = "        vLLM" if self.accepted is None else f"{self.tokens_per_step:11.2f}  {self.accepted:8.2f}"
        return f"{self.clips:5}  {self.form:7}  {times:7} {self.p50_ms:7.1f}  {self.p95_ms:7.1f}  {saved}"


def measure(transcriber: Transcriber, load: Load, args: argparse.Namespace, *, timestamps: bool) -> Row:
    """Measure one load."""
    decoder = transcriber.decoder
    if args.random:
        transcriber = with_agreeing_drafts(transcriber, args.agreement)
    for _ in range(WARM_UPS):
        transcribe(transcriber, load, timestamps=timestamps)
    before = counts_of(decoder)
    seconds = [transcribe(transcriber, load, timestamps=timestamps).wall_s for _ in range(args.passes)]
    after = counts_of(decoder)
    gained = DecodingCounts(
        steps=after.steps - before.steps,
        tokens=after.tokens - before.tokens,
        drafted=after.drafted - before.drafted,
        accepted=after.accepted - before.accepted,
    )
    p50, p95 = (1000 * (percentile_s(seconds, percent) or 0.0) for percent in (50, 95))
    saved = (gained.tokens_per_step, gained.accepted_share) if gained.steps else (None, None)
    return Row(len(load.items), load.form, timestamps, p50, p95, *saved)


def rows(transcriber: Transcriber, loads: dict[Form, Load], args: argparse.Namespace) -> Iterator[Row]:
    """Of each load, without and with word times, as it has been measured."""
    for timestamps in (False, True):
        for form, times in [("memory", n) for n in args.at_once] + [("mp3", 1)]:
            yield measure(transcriber, loads[form].first(times), args, timestamps=timestamps)


def measure_here(args: argparse.Namespace, folder: Path) -> None:
    """Measure one way of running in this process."""
    loads = loads_of(args, folder)
    prepared_s = process_age_s()
    options = {} if args.backend == "torch" else {"fast_lane": args.lane == "fast lane", "decoder_processes": 1}
    with AutoModelVLLM(args.model, device=args.device, backend=args.backend, **options) as model:
        spare_loaded_objects()
        loaded_s = process_age_s()
        transcriber, load = model.transcriber, loads["memory"]
        transcribe(transcriber, load, timestamps=False)
        first_s = process_age_s()
        print(
            f"{args.lane}: first text after {first_s:.1f} s, loaded after {loaded_s:.1f} s, imports and clips "
            f"{prepared_s:.1f} s of that",
            flush=True,
        )
        if args.only_first:
            return
        transcriber.wait_until_complete()
        print(f"{args.lane}: all of it is there after {process_age_s():.1f} s", flush=True)
        print(HEAD)
        for row in rows(transcriber, loads, args):
            print(f"{args.lane:10} {row}", flush=True)


def measure_each(args: argparse.Namespace, folder: Path) -> None:
    """Measure each way of running in a process of its own."""
    if not args.model:
        write_checkpoint(folder / "checkpoint")
    converted = ensure_converted(Path(args.model or folder / "checkpoint"))
    lanes = ["torch"] if args.backend == "torch" else ["fast lane", "vLLM alone"]
    command = [sys.executable, __file__, "--model", str(converted), "--device", args.device, "--backend", args.backend]
    command += ["--passes", str(args.passes), "--seconds", str(args.seconds), "--agreement", str(args.agreement)]
    command += ["--at-once", *map(str, args.at_once), *(["--random"] if args.random else [])]
    for lane in lanes:
        if args.cold:
            with tempfile.TemporaryDirectory() as empty:
                caches = {name: str(Path(empty) / name.lower()) for name in CACHES}
                print("with nothing compiled:", flush=True)
                subprocess.run([*command, "--lane", lane, "--only-first"], env=os.environ | caches, check=True)
        subprocess.run([*command, "--lane", lane], check=True)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint directory; without --random, the clip is one of the bundled")
    parser.add_argument("--random", action="store_true", help="clips of noise, and without --model random weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto", choices=["auto", "vllm", "torch"])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a random clip")
    parser.add_argument("--agreement", type=float, default=AGREEMENT, help="of random answers with their drafts")
    parser.add_argument("--cold", action="store_true", help="time a first text with empty caches too")
    parser.add_argument("--lane", help="measure this way alone, in this process")
    parser.add_argument("--only-first", action="store_true", help="the first text, and nothing else")
    args = parser.parse_args(arguments)
    if not args.model and not args.random:
        parser.error("give --model or --random")
    return args


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        (measure_here if args.lane else measure_each)(args, Path(folder))


if __name__ == "__main__":
    main()
