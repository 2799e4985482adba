"""Thousands of hotwords: is the right one picked, is it written, and what does the choice cost?

    python demos/micro/evaluate_hotwords.py [--model DIR] [--clips 320] [--first-run 0] [--backend torch]

Draws held-out clips whose name a hotword respells (heldout.py; espeak-ng must be installed) and gives each a list of 20
hotwords, all of which go into the prompt, and lists of 100, 1,000 and 5,000 around the same 20, of which the CTC head
picks some. The others are names and pairs of names and words, none of which is said in the clip, Mandarin tones aside.
Printed per language and size: "picked", how often the right hotword is among those in the prompt; "names right" and
CER as evaluate.py counts them; and the milliseconds of one core that picking takes for a clip, and once for a list.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import english
import mandarin
import numpy as np
import torch
from espeak import SAMPLE_RATE
from evaluate import is_written, score
from grammar import Language
from heldout import HeldOutClip, draw_all
from names import draw_name, sound

from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.run_options import transcribe_options
from twostage_asr.engine.words.hotwords import MAX_HOTWORDS_IN_PROMPT

CHECKPOINT = Path(__file__).parent / "checkpoint"
SIZES = (20, 100, 1_000, 5_000)
LANGUAGES: dict[str, Language] = {"en_hotword": "英文", "zh_hotword": "中文"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=CHECKPOINT)
    parser.add_argument("--clips", type=int, default=320, help="of each language")
    parser.add_argument("--first-run", type=int, default=0, help="run of 16 clips at which the draw begins")
    parser.add_argument("--backend", default="torch", choices=["auto", "vllm", "torch"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = dict.fromkeys(LANGUAGES, options.clips)
    clips = list(draw_all(counts, num_workers=2, first_run=options.first_run))
    pools = {name: distractors(language, 2 * max(SIZES)) for name, language in LANGUAGES.items()}
    print("| clips | hotwords | picked % | names right % | CER % | ms a clip, median | p95 | ms a list |")
    print("|---|---|---|---|---|---|---|---|")
    with AutoModelVLLM(options.model, backend=options.backend, dtype="fp32", encoder_dtype="fp32") as model:
        for name in LANGUAGES:
            chosen = [clip for clip in clips if clip.condition == name]
            for size in SIZES:
                lists = [hotword_list(clip, pools[name], size) for clip in chosen]
                share, *times = picked(model, chosen, lists)
                cells = [f"{len(chosen)} {name[:2]}", f"{size:,}", share, *written(model, chosen, lists), *times]
                print(f"| {' | '.join(cells)} |", flush=True)


def distractors(language: Language, count: int) -> list[str]:
    """Names, and as many pairs of a word and either a name's part or another word."""
    rng = random.Random(f"distractors {language}")
    found: dict[str, None] = {}
    while len(found) < count:
        name = draw_name(language, rng)
        if rng.random() < 0.5:
            if language == "英文":
                first = rng.choice([name.split()[0], rng.choice(english.WORDS).title()])
                name = f"{first} {rng.choice(english.WORDS).title()}"
            else:
                name = rng.choice([name[0], rng.choice(mandarin.WORDS)]) + rng.choice(mandarin.WORDS)
        found[name] = None
    return list(found)


def hotword_list(clip: HeldOutClip, pool: Sequence[str], size: int) -> tuple[str, ...]:
    """The clip's own 20 hotwords and others that are not said in it, in any order."""
    said = sounds(clip.recipe.spoken)
    rng = random.Random(f"{clip.recipe.key} {size}")
    listed = dict.fromkeys(clip.recipe.hotwords)
    for candidate in rng.sample(pool, len(pool)):
        if len(listed) == size:
            break
        if sounds(candidate) not in said:
            listed[candidate] = None
    return tuple(rng.sample(list(listed), len(listed)))


@cache
def sounds(text: str) -> str:
    """Equal for what sounds the same, between spaces: words in their usual spelling, or pinyin without tones."""
    parts = sound(text.title()) if text.isascii() else [each[:-1] for each in mandarin.read_characters(text)]
    return f" {' '.join(parts)} "


def picked(model: AutoModelVLLM, clips: Sequence[HeldOutClip], lists: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """How often the right hotword is picked, %, and the milliseconds that it takes: median, p95, once for the list."""
    acoustic, aligner = model.transcriber.acoustic, model.transcriber.aligner
    assert aligner is not None
    if len(lists[0]) <= MAX_HOTWORDS_IN_PROMPT:
        yield from "-" * 4
        return
    num_right, of_clips, of_lists = 0, [], []
    for clip, hotwords in zip(clips, lists, strict=True):
        (utterance,) = acoustic.encode([clip.waveform], with_ctc=True).utterances()
        assert utterance.ctc_hidden is not None
        times = [time.thread_time()]
        for _ in range(2):
            heard = aligner.heard_hotwords(utterance.ctc_hidden, hotwords)
            times.append(time.thread_time())
        num_right += clip.name in heard
        of_lists.append(1000 * (times[1] - times[0]))
        of_clips.append(1000 * (times[2] - times[1]))
    yield f"{100 * num_right / len(clips):.1f}"
    yield f"{np.median(of_clips):.2f}"
    yield f"{np.percentile(of_clips, 95):.2f}"
    yield f"{np.median(of_lists):.0f}"


def written(model: AutoModelVLLM, clips: Sequence[HeldOutClip], lists: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """How often the name is written as its hotword says, and CER; %."""
    inputs = [
        AudioInput(
            key=clip.recipe.key,
            source=clip.waveform,
            sample_rate=SAMPLE_RATE,
            language=clip.recipe.hint,
            itn=clip.recipe.itn,
            hotwords=hotwords,
        )
        for clip, hotwords in zip(clips, lists, strict=True)
    ]
    results = model.transcriber.run(inputs, transcribe_options(timestamps=False))
    texts = [result.text for _, result in sorted(results, key=lambda pair: pair[0])]
    pairs = list(zip(clips, texts, strict=True))
    yield f"{100 * np.mean([is_written(clip.name or '', text) for clip, text in pairs]):.1f}"
    yield f"{100 * (score((clip.recipe.text, text) for clip, text in pairs).cer or 0):.2f}"


if __name__ == "__main__":
    main()
