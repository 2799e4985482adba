"""An LLM writes sentences to train on: python demos/llm_asr/write_sentences.py LLM OUT.txt --minutes 20

LLM is a directory in Hugging Face's layout with ChatML prompts, such as SmolLM2's. What it writes is nobody's text and
needs no licence beside the LLM's own. Lines are written as they come, so that it can be stopped at any time.
"""

import argparse
import itertools
import random
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

KINDS = (
    "Write ten short sentences that somebody may say about {topic}. One sentence a line, no numbers.",
    "Write a short story about {topic}. Use simple words and short sentences.",
    "Write ten things that a caller may hear or be asked by the telephone menu of a company for {topic}.",
    "Write ten commands and ten questions that somebody may say to a phone or a speaker about {topic}, one a line.",
    "Write a conversation of two people about {topic}, without their names.",
    "Write ten sentences from an old novel in which {topic} matters. One sentence a line.",
    "Explain {topic} to a child in ten short sentences.",
)
TOPICS = tuple(
    """the weather|a lost dog|dinner|a train journey|the bank|a doctor's visit|music|a letter from far away|the sea|
    a garden|school|a broken car|the police|a hotel|the news|sleep|a birthday|winter|a horse|the kitchen|money|a flight|
    an old house|the river|a wedding|voice mail|a meeting|the market|a storm|books|football|a king|a village|the doctor|
    a computer|a mountain|bread|medicine|a thief|the moon|work|a neighbour|taxes|the library|a ship|war|a church|
    insurance|shopping|a museum|the radio|children|a forest|a dream|the electric bill|coffee|a museum guide|the farm|
    a password|an appointment|history|a bird|the desert|glass|friendship|a soldier|lights|the bathroom|clothes|a map|
    calling a taxi|a conference call|a mailbox|an island|science|painting|an engine|gold|a promise|rain|a secret|
    fishing|a mother|a brother|courage|time|the street|a bridge|a fire|the stars|a prison|a castle|tea|silence|a judge|
    a factory|exercise|a restaurant|the internet|a newspaper|a phone number|parking|the bus|a teacher|an accident"""
    .replace("\n", "")
    .split("|")
)  # fmt: skip


def write(llm: Path, out: Path, *, minutes: float, batch: int, tokens: int) -> None:
    """Append lines until the time is over."""
    tokenizer = AutoTokenizer.from_pretrained(llm, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(llm, dtype="bfloat16" if device == "cuda" else "float32")
    model = model.to(device).eval()
    rng, deadline = random.Random(1), time.monotonic() + 60 * minutes
    torch.manual_seed(1)
    asked = list(itertools.product(KINDS, TOPICS))
    with out.open("a", encoding="utf-8") as file:
        while time.monotonic() < deadline:
            chosen = [kind.format(topic=topic.strip()) for kind, topic in rng.choices(asked, k=batch)]
            prompts = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in chosen]
            inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(device)
            with torch.inference_mode():
                found = model.generate(
                    **inputs, do_sample=True, temperature=0.8, top_p=0.95, top_k=0, max_new_tokens=tokens
                )
            for answer in tokenizer.batch_decode(found[:, inputs.input_ids.shape[1] :], skip_special_tokens=True):
                file.write("\n".join(line for line in answer.split("\n") if line.strip()) + "\n")
            file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llm", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=160, help="of an answer at most")
    arguments = parser.parse_args()
    write(
        arguments.llm,
        arguments.out,
        minutes=arguments.minutes,
        batch=arguments.batch,
        tokens=arguments.tokens,
    )


if __name__ == "__main__":
    main()
