"""Does an LLM that is spread over several GPUs write what one GPU writes, how fast, and what if a process of it dies?

    python demos/tensor_parallel.py --degrees 1 2 4 --json tensor_parallel.json

Each number of GPUs has a process of its own, so that the GPUs are free again before the next. In it are measured:

    tokens  the answers to --clips prompts in float32, beside those of the first number of GPUs. One process encodes the
            clips for all of them, so that the prompts are the same bits
    speed   --bench clips in memory in bfloat16, without word times, the last of three passes
    loss    SIGKILL to one of the engine's processes in the middle of such a pass: the seconds until DecodeError, and
            what is left of its processes

Without a GPU, `VLLM_CPU_OMP_THREADS_BIND='0|1' python demos/tensor_parallel.py --model demos/micro/checkpoint --dtype
fp32 --degrees 1 2 --clips 8 --bench 8` runs on two cores.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from twostage_asr.engine import AutoModelVLLM, DecodeError
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.bench.load import Load, random_lengths, random_load
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.decoder.base import DecodeParams, Decoder
from twostage_asr.engine.transcriber import Transcriber

PASSES = 3
KILL_AFTER_S = 1.0  # of a pass
GIVEN_UP_S = 60.0


def prompts_of(transcriber: Transcriber, load: Load, kept: Path) -> list[torch.Tensor]:
    """The clips' prompts, which the first process computes and keeps for the others."""
    if not kept.exists():
        request = load.options(timestamps=False).request
        around = transcriber.embedder.embed(transcriber.family.prompt_text(request)).around
        encode = transcriber.acoustic.encode
        encoded = [encode([item.source], with_ctc=False).utterances()[0] for item in load.items]
        torch.save([around(one.audio_embeds).cpu().clone() for one in encoded], kept)
    prompts: list[torch.Tensor] = torch.load(kept, weights_only=True)
    return prompts


def answers(decoder: Decoder, prompts: list[torch.Tensor], num_tokens: int) -> dict[str, Any]:
    params = DecodeParams(max_new_tokens=num_tokens, ignore_eos=True)
    ids = [decoder.submit(prompt, params) for prompt in prompts]
    done = {}
    while decoder.num_pending:
        done.update(decoder.poll())
    hypotheses = [done[prompt_id] for prompt_id in ids]
    return {"tokens": [list(h.token_ids) for h in hypotheses], "log_probs": [list(h.log_probs) for h in hypotheses]}


def transcribe(transcriber: Transcriber, load: Load) -> float:
    """One pass; returns its seconds."""
    begun = time.perf_counter()
    failed = [t.error for _, t in transcriber.run(load.items, load.options(timestamps=False)) if t.status == "error"]
    if failed:
        raise SystemExit(f"{len(failed)} clips failed: {failed[0]}")
    return time.perf_counter() - begun


def descendants(pid: int) -> list[int]:
    """The processes that this one has started, and theirs."""
    children: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text(encoding="ascii").split())
    return [*children, *itertools.chain.from_iterable(map(descendants, children))]


def workers() -> Iterator[int]:
    """The processes in which vLLM computes."""
    for pid in descendants(os.getpid()):
        if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").startswith("VLLM::Worker"):
            yield pid


def lose_one(model: AutoModelVLLM, load: Load) -> dict[str, Any]:
    """Kill the last process in which vLLM computes while the engine decodes."""
    before = descendants(os.getpid())
    victims = list(workers()) or before[:1]  # one GPU has no processes beside the engine's own
    killed_at: list[float] = []

    def kill() -> None:
        killed_at.append(time.perf_counter())
        os.kill(victims[-1], signal.SIGKILL)

    threading.Timer(KILL_AFTER_S, kill).start()
    try:
        while not killed_at or time.perf_counter() < killed_at[0] + GIVEN_UP_S:
            transcribe(model.transcriber, load)
    except DecodeError as error:
        error_s = time.perf_counter() - killed_at[0]
        model.close()
        left = sorted(set(before) & set(descendants(os.getpid())))
        return {"until_error_s": round(error_s, 2), "error": str(error), "processes": len(before), "left": len(left)}
    raise SystemExit(f"no error within {GIVEN_UP_S:g} s of the loss of a process")


def measure(args: argparse.Namespace, degree: int) -> dict[str, Any]:
    where: dict[str, Any] = {"tensor_parallel_size": degree, "decoder_processes": 1, "gpu_memory_utilization": 0.5}
    if degree == 1:
        where["fast_lane"] = False  # vLLM beside vLLM
    found: dict[str, Any] = {"gpus": degree}
    begun = time.perf_counter()
    with AutoModelVLLM(args.model, dtype="fp32", encoder_dtype="fp32", **where) as model:
        found["load_s"] = round(time.perf_counter() - begun, 1)
        load = random_load(random_lengths(args.clips), "memory", args.work)
        prompts = prompts_of(model.transcriber, load, args.work / "prompts.pt")
        found |= answers(model.transcriber.decoder, prompts, load.num_tokens or 1)
    lengths = random_lengths(args.bench)
    load = random_load(lengths, "memory", args.work)
    model = AutoModelVLLM(args.model, dtype=args.dtype, encoder_dtype=args.dtype, **where)
    model.transcriber.wait_until_complete()
    found["rtfx"] = [round(sum(lengths) / SAMPLE_RATE / transcribe(model.transcriber, load), 1) for _ in range(PASSES)]
    found["loss"] = lose_one(model, load)
    return found


def in_own_process(work: Path, degree: int) -> dict[str, Any]:
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", str(degree)], check=True)
    found: dict[str, Any] = json.loads(figures_of(work, degree).read_text(encoding="utf-8"))
    return found


def figures_of(work: Path, degree: int) -> Path:
    return work / f"{degree}.json"


def say(found: dict[str, Any], first: dict[str, Any]) -> None:
    same = sum(a == b for a, b in zip(found["tokens"], first["tokens"], strict=True))
    pairs = zip(itertools.chain(*found["log_probs"]), itertools.chain(*first["log_probs"]), strict=True)
    most = max(abs(a - b) for a, b in pairs) if same == len(first["tokens"]) else float("nan")
    loss = found["loss"]
    print(
        f"{found['gpus']} GPUs, loaded in {found['load_s']} s: {same} of {len(first['tokens'])} clips have the tokens "
        f"of {first['gpus']}, log-probabilities differ by at most {most:.1e}; RTFx {found['rtfx'][-1]}; DecodeError "
        f"{loss['until_error_s']} s after a kill, {loss['left']} of {loss['processes']} processes left",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: random weights of Fun-ASR-Nano's size")
    parser.add_argument(
        "--degrees", type=int, nargs="+", default=[1, 2], help="numbers of GPUs, the first to compare with"
    )
    parser.add_argument("--clips", type=int, default=64, help="whose tokens are compared")
    parser.add_argument("--bench", type=int, default=3000, help="clips of the passes that are timed")
    parser.add_argument("--dtype", default="bf16", help="of these passes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only is not None:
        figures_of(args.work, args.only).write_text(json.dumps(measure(args, args.only)), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            args.model = Path(folder) / "random"
            write_checkpoint(args.model)
        sys.argv += ["--model", str(args.model), "--work", folder]
        runs = []
        for degree in args.degrees:
            runs.append(in_own_process(Path(folder), degree))
            say(runs[-1], runs[0])
            if args.json is not None:
                args.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
