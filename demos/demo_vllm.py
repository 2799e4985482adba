"""Transcribe files with both stages: text, word times, speed, and a JSONL and SRT files.

python demos/demo_vllm.py                          # the bundled clips, with the bundled micro checkpoint
python demos/demo_vllm.py --model-dir FunAudioLLM/Fun-ASR-Nano-2512 --input talk.wav --language 中文
"""

import argparse
import os
import re
import sys
import time
from functools import partial
from pathlib import Path

from twostage_asr.engine.console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

from twostage_asr.engine import AutoModelVLLM, Transcript
from twostage_asr.engine.writers import write_file, write_jsonl

HERE = Path(__file__).parent
MICRO = HERE / "micro"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", default=str(MICRO / "checkpoint"), help="checkpoint directory or hub id")
    parser.add_argument("--input", nargs="+", default=[str(MICRO / "clips" / "manifest.jsonl")], metavar="INPUT")
    parser.add_argument("--hub", default="ms", choices=["ms", "hf"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"], help="of the LLM")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.8)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--language", help="name or ISO code; left to the model by default")
    parser.add_argument("--hotwords", nargs="+", default=[])
    parser.add_argument("--no-itn", action="store_true", help="write numbers as they are spoken")
    parser.add_argument("--speakers", action="store_true", help="say who speaks")
    parser.add_argument("--batch-size", type=int, default=128, help="most clips encoded together")
    parser.add_argument(
        "--then-vllm", action="store_true", help="then let vLLM alone decode them, and compare the texts"
    )
    parser.add_argument(
        "--output", type=Path, default=HERE / "out" / "transcripts.jsonl", help="SRT files go beside it"
    )
    return parser.parse_args()


def show(result: Transcript) -> None:
    print(f"{result.key}: {result.text if result.status == 'ok' else f'ERROR {result.error}'}")
    if result.words:
        print("    " + " ".join(f"{word.text}[{word.start:.2f}-{word.end:.2f}]" for word in result.words))
    for segment in result.segments:
        if segment.speaker:
            print(f"    {segment.speaker}: {segment.text}")
    for warning in result.warnings:
        print(f"    warning: {warning.message}")


def write(results: list[Transcript], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(results, output)
    for result in results:
        name = re.sub(r"[/\\\0]", "_", result.key)  # keys may hold anything
        write_file(result, output.parent / f"{name}.srt")


def main() -> int:
    args = parse_arguments()
    load = partial(
        AutoModelVLLM,
        args.model_dir,
        hub=args.hub,
        device=args.device,
        dtype=args.dtype,
        tensor_parallel_size=args.tensor_parallel_size,
        gpu_memory_utilization=args.gpu_memory_utilization,
        max_model_len=args.max_model_len,
    )
    options = {
        "language": args.language,
        "hotwords": args.hotwords,
        "itn": not args.no_itn,
        "max_new_tokens": args.max_new_tokens,
        "batch_size": args.batch_size,
        "speakers": args.speakers,
        "progress": True,
    }
    started = time.perf_counter()
    with load() as model:
        loaded = time.perf_counter()
        results = model.generate(args.input, **options)
        wall = time.perf_counter() - loaded
    for result in results:
        show(result)
    write(results, args.output)
    audio = sum(result.duration for result in results)
    failed = sum(result.status == "error" for result in results)
    print(
        f"\n{len(results)} clips, {audio:.1f} s of audio in {wall:.2f} s: RTFx {audio / wall:.1f}; "
        f"loading took {loaded - started:.1f} s; {failed} failed"
    )
    print(f"wrote {os.path.relpath(args.output)} and {len(results)} SRT files beside it")
    if args.then_vllm:
        with load(backend="vllm", fast_lane=False) as model:
            same = [
                mine.text == its.text for mine, its in zip(results, model.generate(args.input, **options), strict=True)
            ]
        print(f"vLLM alone writes the same texts for {sum(same)} of {len(same)} clips")
        failed += same.count(False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
