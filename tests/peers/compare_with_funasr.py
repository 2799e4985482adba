"""Ours against FunASR 1.4.16 on the same checkpoint and clips: prompt ids, greedy token ids and texts, float32, CPU.

    python tests/peers/compare_with_funasr.py CHECKPOINT_DIR CLIPS.jsonl [--backend vllm]

Prints how many clips agree, and each that does not. CLIPS.jsonl is described in funasr_reference.py, which this runs in
a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.pipeline import Clip, decode, embedded_prompt, prompt_embeds, read_manifest
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.text import clean_text
from twostage_asr.engine.transcriber import Transcriber

PEER = Path(__file__).with_name("funasr_reference.py")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One clip through both engines."""

    key: str
    prompts_agree: bool
    tokens_agree: bool
    ours: str
    theirs: str


def funasr_results(checkpoint: Path, clips: Path, out: Path) -> list[dict[str, Any]]:
    """FunASR's results of the clips, in their order."""
    command = [sys.executable, str(PEER), str(checkpoint), str(clips), str(out), "--text-only"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{PEER.name} failed: {finished.stdout[-1000:]}{finished.stderr[-3000:]}")
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def compare(transcriber: Transcriber, clips: Sequence[Clip], results: Sequence[dict[str, Any]]) -> Iterator[Comparison]:
    prompts = prompt_embeds(transcriber, clips)
    end_tokens = _end_tokens(results)
    for clip, prompt, hypothesis, theirs in zip(
        clips, prompts, decode(transcriber.decoder, prompts), results, strict=True
    ):
        text = embedded_prompt(transcriber, clip)
        num_audio = prompt.shape[0] - len(text)
        yield Comparison(
            key=clip["key"],
            prompts_agree=[*text.prefix_ids, *[0] * num_audio, *text.suffix_ids] == theirs["prompt_ids"],
            tokens_agree=[*hypothesis.token_ids, *end_tokens] == theirs["token_ids"],
            ours=clean_text(transcriber.tokenizer.decode(hypothesis.token_ids)),
            theirs=clean_text(theirs["text"]),
        )


def _end_tokens(results: Sequence[dict[str, Any]]) -> list[int]:
    """FunASR's token ids hold the end token; all its answers must end with the same one."""
    ends = {result["token_ids"][-1] for result in results}
    if len(ends) != 1:
        raise RuntimeError(f"FunASR's answers end with different tokens: {sorted(ends)}")
    return list(ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--backend", choices=["vllm", "torch"], default="vllm")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        results = funasr_results(args.checkpoint, args.clips, Path(out))
    with AutoModelVLLM(
        args.checkpoint, backend=args.backend, dtype="fp32", encoder_dtype="fp32", device="cpu"
    ) as model:
        rows = list(compare(model.transcriber, read_manifest(args.clips), results))
    for row in rows:
        if not (row.prompts_agree and row.tokens_agree):
            print(f"{row.key}: prompts agree {row.prompts_agree}\n  ours   {row.ours}\n  theirs {row.theirs}")
    counts = {name: sum(getattr(row, name) for row in rows) for name in ("prompts_agree", "tokens_agree")}
    print(f"{args.checkpoint.name}, {args.backend}: {len(rows)} clips, {counts}")


if __name__ == "__main__":
    main()
