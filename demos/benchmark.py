"""Time the engine on random audio held in memory, by stage.

    python demos/benchmark.py CHECKPOINT_DIR [--timestamps] [--clips 512]

For random weights: every clip decodes the same number of tokens, 4 for each second of the mean clip, as Mandarin
speech would. Durations are log-normal (mean about 9.5 s, 1.5 to 30 s) from seed 0. Prints one JSON line a repetition;
the clock covers everything from waveforms in memory to transcripts.
"""

import argparse
import json
import time

import numpy as np
import torch

from twostage_asr.engine import AudioLimits, AutoModelVLLM
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.inputs import expand_inputs
from twostage_asr.engine.transcriber import TranscribeOptions, Transcriber

SAMPLE_RATE = 16_000
TOKENS_PER_SECOND = 4


def random_clips(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(2.1, 0.6, count), 1.5, 30)
    return [(rng.standard_normal(int(SAMPLE_RATE * s)) * 0.05).astype(np.float32) for s in seconds]


def measure(transcriber: Transcriber, clips: list[np.ndarray], timestamps: bool) -> dict[str, float]:
    audio_s = sum(map(len, clips)) / SAMPLE_RATE
    params = DecodeParams(max_new_tokens=round(TOKENS_PER_SECOND * audio_s / len(clips)), ignore_eos=True)
    options = TranscribeOptions(
        request=Request(language="中文"), params=params, timestamps=timestamps, limits=AudioLimits()
    )
    items = expand_inputs([(clip, SAMPLE_RATE) for clip in clips])
    started = time.perf_counter()
    done = list(transcriber.run(items, options))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall_s = time.perf_counter() - started
    failed = [t.error for _, t in done if t.status == "error"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(clips)} clips failed, the first with: {failed[0]}")
    return {"audio_s": round(audio_s), "wall_s": round(wall_s, 2), "rtfx": round(audio_s / wall_s, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--timestamps", action="store_true")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--encoder-dtype", default="auto")
    args = parser.parse_args()
    clips = random_clips(args.clips)
    with AutoModelVLLM(args.checkpoint, encoder_dtype=args.encoder_dtype) as model:
        for repetition in range(args.repeat):
            figures = measure(model.transcriber, clips, args.timestamps)
            print(json.dumps({"repetition": repetition, "timestamps": args.timestamps, **figures}), flush=True)


if __name__ == "__main__":
    main()
