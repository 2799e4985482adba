"""Does the order of work change a word? Every clip alone, against all of them at once in a random order.

    python tests/peers/compare_orders.py MODEL_DIR [--clips 500] [--dtype fp32|bf16]

The clips are cut at random from those of the tests. In float32 not one may differ. In bfloat16 another batch rounds in
another way: for each clip that differs, the two tokens that the answers part with are shown with their logits in
float32; where they are nearer to each other than bfloat16 can tell apart, rounding explains it.
"""

import argparse
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import Tensor

from tests.paths import CLIPS
from tests.pipeline import read_manifest
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.decode import SAMPLE_RATE, Waveform
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.families.base import Request

SHORTEST_S, LONGEST_S = 1.0, 12.0


def cut_clips(count: int, seed: int) -> list[Waveform]:
    """Pieces of all test clips joined, at random places."""
    rng = random.Random(seed)
    sources = sorted({clip["source"] for clip in read_manifest(CLIPS)})
    whole = np.concatenate([load(item) for item in expand_inputs(sources)])
    pieces = []
    for _ in range(count):
        length = round(rng.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE)
        start = rng.randrange(len(whole) - length)
        pieces.append(whole[start : start + length])
    return pieces


def texts_alone(model: AutoModelVLLM, clips: Sequence[Waveform]) -> list[str]:
    return [model.generate(clip, timestamps=False)[0].text for clip in clips]


def texts_together(model: AutoModelVLLM, clips: Sequence[Waveform], seed: int) -> list[str]:
    order = list(range(len(clips)))
    random.Random(seed).shuffle(order)
    results = model.generate([clips[i] for i in order], timestamps=False)
    text_of = dict(zip(order, (result.text for result in results), strict=True))
    return [text_of[i] for i in range(len(clips))]


@torch.inference_mode()
def explain(reference: AutoModelVLLM, clip: Waveform, one: str, other: str) -> tuple[bool, str]:
    """Whether rounding explains that the answers part, and where they do."""
    transcriber = reference.transcriber
    ends = sorted(transcriber.decoder._eos_token_ids)  # type: ignore[attr-defined]
    (utterance,) = transcriber.acoustic.encode([clip], with_ctc=False).utterances()
    prompt = transcriber.embedder.embed(transcriber.family.prompt_text(Request())).around(utterance.audio_embeds)
    llm = transcriber.decoder._model  # type: ignore[attr-defined]

    def logits_after(said: Sequence[int]) -> Tensor:
        rows = llm.get_input_embeddings()(torch.tensor(said, dtype=torch.int64, device=llm.device))
        logits: Tensor = llm(inputs_embeds=torch.cat([prompt.to(llm.device), rows])[None]).logits[0, -1]
        return logits

    def tokens_of(text: str) -> list[int]:
        """Texts are stripped: a clip that begins inside a sentence may have begun with a space."""
        spellings = [[*transcriber.tokenizer.encode(begin + text), *ends] for begin in ("", " " * bool(text))]
        return max(spellings, key=lambda ids: float(at_first[ids[0]]))

    at_first = logits_after([])
    ids, other_ids = tokens_of(one), tokens_of(other)
    place = next(i for i, (a, b) in enumerate(zip(ids, other_ids, strict=False)) if a != b)
    logits = logits_after(ids[:place])
    # A text may end with any of several tokens.
    first, second = (float(logits[ends if i in ends else i].max()) for i in (ids[place], other_ids[place]))
    tokens = [transcriber.tokenizer.decode([i]) for i in (ids[place], other_ids[place])]
    # Two roundings of numbers of this size; sums over layers round more often than once.
    step = max(abs(first), abs(second)) * torch.finfo(torch.bfloat16).eps
    found = f"token {place}: {tokens[0]!r} {first:.3f}, {tokens[1]!r} {second:.3f}; bfloat16 steps here are {step:.3f}"
    return abs(first - second) <= 4 * step, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    clips = cut_clips(args.clips, args.seed)
    with AutoModelVLLM(args.model, dtype=args.dtype, encoder_dtype=args.dtype) as model:
        alone, together = texts_alone(model, clips), texts_together(model, clips, args.seed)
    differ = [i for i in range(len(clips)) if alone[i] != together[i]]
    print(f"{args.dtype}: {len(clips) - len(differ)} of {len(clips)} clips have the same text alone and together")
    unexplained = len(differ)
    if differ and args.dtype == "bf16":
        with AutoModelVLLM(args.model, dtype="fp32", encoder_dtype="fp32", backend="torch") as reference:
            for i in differ:
                is_rounding, found = explain(reference, clips[i], alone[i], together[i])
                unexplained -= is_rounding
                print(f"clip {i}: {alone[i]!r} / {together[i]!r}: {found}")
    print(f"{unexplained} are not explained by rounding")
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
