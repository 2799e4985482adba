"""Time stage 2 alone: vLLM on prompt embeddings of random numbers, in this process or in several.

    python demos/benchmark_decoder.py MODEL_DIR [--prompts 1 16 64 128 256 512 2048] [--tokens 38] [--processes 0]
                                      [--vllm JSON]

MODEL_DIR is a checkpoint or a converted model; `python -m twostage_asr.engine.bench.random_checkpoint DIR` makes one of
the published sizes. Prompts have 45 positions, what 10 s of audio take; answers have a fixed length.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from twostage_asr.convert.export import ensure_converted
from twostage_asr.engine.acoustic.threads import one_thread
from twostage_asr.engine.config import DEFAULT_MODEL_LEN, EngineConfig
from twostage_asr.engine.console import quiet_libraries
from twostage_asr.engine.decoder.base import DecodeParams, Decoder, LLMSource
from twostage_asr.engine.decoder.process_decoder import ProcessDecoder
from twostage_asr.engine.decoder.vllm_decoder import VLLMDecoder, VLLMOptions
from twostage_asr.engine.manifest import LLM_DIR_NAME, EngineManifest

NUM_POSITIONS = 45
NUM_DISTINCT = 512
REPETITIONS = 3


def seconds_taken(decoder: Decoder, num_prompts: int, num_tokens: int) -> float:
    """As the engine feeds it: no more prompts at once than keep it busy."""
    limits, params = decoder.limits, DecodeParams(max_new_tokens=num_tokens, ignore_eos=True)
    prompts = torch.randn(min(num_prompts, NUM_DISTINCT), NUM_POSITIONS, limits.hidden_size).mul_(0.02).to(limits.dtype)
    started = time.perf_counter()
    for number in range(num_prompts):
        while decoder.num_pending >= decoder.max_pending:
            decoder.poll()
        decoder.submit(prompts[number % NUM_DISTINCT], params)
    while decoder.num_pending:
        decoder.poll()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", type=torch.device)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 16, 64, 128, 256, 512, 2048])
    parser.add_argument("--tokens", type=int, default=38)
    parser.add_argument("--processes", type=int, default=0, help="that decode; 0 is this one alone")
    parser.add_argument("--vllm", type=json.loads, default={}, metavar="JSON", help="vLLM EngineArgs by name")
    args = parser.parse_args()
    quiet_libraries()
    engine_dir = ensure_converted(args.model)
    llm = EngineManifest.read(engine_dir).llm
    dtype = torch.bfloat16 if args.device.type == "cuda" else torch.float32
    source = LLMSource(engine_dir / LLM_DIR_NAME, llm, dtype, min(DEFAULT_MODEL_LEN, llm.max_position_embeddings))
    options = VLLMOptions(device=args.device, engine=args.vllm)
    decoder: Decoder
    if args.processes:
        stall_timeout_s = EngineConfig().stall_timeout_s
        decoder = ProcessDecoder(source, options, num_processes=args.processes, stall_timeout_s=stall_timeout_s)
    else:
        decoder = VLLMDecoder(source, options)
    decoder.wait_until_ready()
    with one_thread(active=args.device.type == "cuda"):
        for num_prompts in args.prompts:
            wall_s = min(seconds_taken(decoder, num_prompts, args.tokens) for _ in range(REPETITIONS))
            tokens_per_s = num_prompts * args.tokens / wall_s
            print(f"{num_prompts:>5} prompts   {wall_s:.3f} s   {tokens_per_s:,.0f} tokens/s", flush=True)
    decoder.close()


if __name__ == "__main__":
    main()
