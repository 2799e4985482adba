"""What stage 1, the prompt and the tokens take of a clip: where the time of a long list goes.

    python demos/benchmark_stages.py --random qwen3_asr_1_7b --clip-seconds 30 --tokens 120 --decoder-processes 1
    python demos/benchmark_stages.py --model demos/micro/checkpoint --clips 4 --tokens 4

Each row is a pass over the same clips of noise, after one that warms it up: stage 1 alone, in batches of some sizes up
to the largest that fits; both stages with one token a clip; and with all of them. So what the second row takes beyond
stage 1 is reading the prompt, and what the last one takes beyond the second is writing the tokens. The stages
overlap, so no part takes less than that by itself. `gpu_busy` is the share of the time in which a kernel ran.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from twostage_asr.engine.console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

import torch
from benchmark_server import bound, offline

from twostage_asr.engine import AutoModelVLLM, transcribe_options
from twostage_asr.engine.acoustic.threads import one_thread
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.bench.command import WRITERS
from twostage_asr.engine.bench.load import LANGUAGE, noise
from twostage_asr.engine.bench.machine import GPUMeter, hardware, versions
from twostage_asr.engine.decoder.two_lanes import TwoLaneDecoder
from twostage_asr.engine.transcriber import Transcriber

NUM_WAVES = 8  # that the clips are, in turn
BATCHES = (8, 32)  # of stage 1, and the largest that fits


@dataclass(frozen=True, slots=True)
class Row:
    """What one part takes."""

    part: str
    ms_per_clip: float
    per_second: float
    gpu_busy: float | None


def stages(transcriber: Transcriber, clips: Sequence[Waveform], num_tokens: int) -> Iterator[Row]:
    """Each part's row as soon as it is measured. All clips have one length."""
    largest = max(transcriber.max_batch_frames // transcriber.acoustic.num_frames(len(clips[0])), 1)
    work: Callable[[], object]
    for size in sorted({min(size, largest, len(clips)) for size in (*BATCHES, largest)}):
        work = partial(encode, transcriber, clips, size)
        yield measured(f"stage 1, batches of {size}", transcriber, len(clips), work)
    inputs = [(clip, SAMPLE_RATE) for clip in clips]
    for count in (1, num_tokens):
        options = bound(transcribe_options(language=LANGUAGE, timestamps=False), count)
        work = partial(offline, transcriber, inputs, options)
        yield measured(f"both stages, {count} token(s)", transcriber, len(clips), work)


def measured(part: str, transcriber: Transcriber, num_clips: int, work: Callable[[], object]) -> Row:
    """The second of two passes."""
    work()
    with GPUMeter(transcriber.device) as meter:
        started = time.perf_counter()
        work()
        if transcriber.device.type == "cuda":
            torch.cuda.synchronize()
        wall_s = time.perf_counter() - started
    return Row(part, round(1000 * wall_s / num_clips, 3), round(num_clips / wall_s, 1), meter.busy_share)


def encode(transcriber: Transcriber, clips: Sequence[Waveform], size: int) -> None:
    with one_thread(active=transcriber.device.type != "cpu"):  # as in a run: compiled code is of a number of threads
        for start in range(0, len(clips), size):
            transcriber.acoustic.encode(clips[start : start + size], with_ctc=False).utterances()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint directory or hub id")
    source.add_argument("--random", choices=WRITERS, help="weights of a published size")
    parser.add_argument("--clips", type=int, default=384, help="(default %(default)s)")
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="(default %(default)s)")
    parser.add_argument("--tokens", type=int, default=40, help="of every answer, exactly (default %(default)s)")
    parser.add_argument("--decoder-processes", type=int, metavar="N", help="see `twostage-asr serve --help`")
    args = parser.parse_args()
    waves = [noise(number, int(args.clip_seconds * SAMPLE_RATE)) for number in range(NUM_WAVES)]
    with tempfile.TemporaryDirectory() as name:
        if args.random:
            WRITERS[args.random](Path(name))
        with AutoModelVLLM(args.model or name, decoder_processes=args.decoder_processes) as model:
            transcriber = model.transcriber
            transcriber.wait_until_complete()
            if isinstance(transcriber.decoder, TwoLaneDecoder):
                transcriber = replace(transcriber, decoder=transcriber.decoder.large)  # which has all of a long list
            print(json.dumps(hardware(transcriber.device) | versions(transcriber.device)), flush=True)
            for row in stages(transcriber, [waves[number % NUM_WAVES] for number in range(args.clips)], args.tokens):
                print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
