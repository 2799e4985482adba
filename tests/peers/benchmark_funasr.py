"""Time FunASR 1.4.16's own vLLM engine (FunASRNanoVLLM) on the clips of demos/benchmark.py.

    python demos/random_load.py DIR
    python tests/peers/benchmark_funasr.py DIR [--timestamps] [--clips 512]

Prints one JSON line a repetition.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from funasr.models.fun_asr_nano.inference_vllm import FunASRNanoVLLM

sys.path.append(str(Path(__file__).parents[2] / "demos"))

from random_load import SAMPLE_RATE, random_clips, tokens_per_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--timestamps", action="store_true")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    clips = random_clips(args.clips)
    audio_s = sum(map(len, clips)) / SAMPLE_RATE
    engine = FunASRNanoVLLM(model_dir=args.checkpoint, device="cuda:0", dtype="bf16", gpu_memory_utilization=0.6)
    if not args.timestamps:
        engine.ctc_decoder = None
    generate = engine.vllm_engine.generate

    def without_end(prompts: object, params: object, **options: object) -> object:
        params.ignore_eos = True  # type: ignore[attr-defined]
        return generate(prompts, params, use_tqdm=False)

    engine.vllm_engine.generate = without_end
    for repetition in range(args.repeat):
        started = time.perf_counter()
        engine.generate(clips, language="中文", max_new_tokens=tokens_per_clip(clips))
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - started
        figures = {"audio_s": round(audio_s), "wall_s": round(wall_s, 2), "rtfx": round(audio_s / wall_s, 1)}
        print(json.dumps({"repetition": repetition, "timestamps": args.timestamps, **figures}), flush=True)


if __name__ == "__main__":
    main()
