"""Time FunASR 1.4.16's own vLLM engine (FunASRNanoVLLM) on the clips of demos/benchmark.py.

    python demos/random_load.py DIR
    python tests/peers/benchmark_funasr.py DIR [--clips 512]

Prints one JSON line a repetition, with and without timestamps.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "demos"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    # Here, because vLLM's process imports this script again and does not start where funasr was imported.
    from funasr.models.fun_asr_nano.inference_vllm import FunASRNanoVLLM
    from random_load import SAMPLE_RATE, random_clips, tokens_per_clip

    clips = random_clips(args.clips)
    audio_s = sum(map(len, clips)) / SAMPLE_RATE
    engine = FunASRNanoVLLM(model_dir=args.checkpoint, device="cuda:0", dtype="bf16", gpu_memory_utilization=0.6)
    generate = engine.vllm_engine.generate

    def without_end(prompts: object, params: object, **options: object) -> object:
        params.ignore_eos = True  # type: ignore[attr-defined]
        return generate(prompts, params, use_tqdm=False)

    engine.vllm_engine.generate = without_end
    for timestamps in (True, False):
        if not timestamps:
            engine.ctc_decoder = None
        for repetition in range(args.repeat):
            started = time.perf_counter()
            engine.generate(clips, language="中文", max_new_tokens=tokens_per_clip(clips))
            torch.cuda.synchronize()
            wall_s = time.perf_counter() - started
            figures = {"audio_s": round(audio_s), "wall_s": round(wall_s, 2), "rtfx": round(audio_s / wall_s, 1)}
            print(json.dumps({"timestamps": timestamps, "repetition": repetition, **figures}), flush=True)


if __name__ == "__main__":
    main()
