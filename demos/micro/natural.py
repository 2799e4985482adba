"""Held-out clips of natural voices: Kokoro's voices that no training has, as held-out clips are examined."""

import random
from pathlib import Path

import numpy as np
from espeak import SAMPLE_RATE, Voice
from heldout import HeldOutClip
from kokoro import read_shards
from render import Recipe

_NAMES = {"英文": "en_kokoro", "中文": "zh_kokoro"}
_MARGIN = round(0.3 * SAMPLE_RATE)


def natural_clips(folder: Path) -> list[HeldOutClip]:
    """What kokoro.py spoke into `folder` with --held-out, 0.3 s of silence around each."""
    clips = []
    for number, (sentence, edges, samples, voice) in enumerate(read_shards(folder)):
        if sentence is None:
            continue
        rng = random.Random(f"natural {number}")
        name = _NAMES[sentence.language]
        recipe = Recipe(
            key=f"{name}_{number:03d}",
            sentences=(sentence,),
            voice=Voice(file=voice),
            hint=rng.choice((None, sentence.language)),
            itn=rng.random() < 0.5,
        )
        waveform = np.pad(samples, _MARGIN).astype(np.float32) * np.float32(rng.uniform(0.1, 0.9) / 32_768)
        words = [
            (word, float(start) + 0.3, float(end) + 0.3)
            for word, (start, end) in zip(sentence.words, edges, strict=True)
        ]
        clips.append(HeldOutClip(condition=name, recipe=recipe, waveform=waveform, words=words))
    return clips
