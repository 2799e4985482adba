"""Held-out clips of natural voices, Kokoro's and people's that no training has, as held-out clips are examined.

    python demos/micro/natural.py SHARDS        # adds two of them to demos/micro/clips, after synthesize.py --set demo

SHARDS: what speak.py spoke with --held-out.
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
from demo_clips import NATURAL_CLIPS
from espeak import SAMPLE_RATE, Voice
from heldout import HeldOutClip
from kokoro import read_shards
from render import Recipe
from synthesize import DEMO_DIR, manifest_line
from train.corpus import Spoken
from train.people import kept_back

_KOKORO = {"英文": "en_kokoro", "中文": "zh_kokoro"}
_PEOPLE = {"英文": "en_people"}
_MARGIN = round(0.3 * SAMPLE_RATE)


def natural_clips(folder: Path) -> list[HeldOutClip]:
    """What speak.py spoke into `folder` with --held-out."""
    return list(_clips(read_shards(folder), _KOKORO))


def people_clips(folder: Path) -> list[HeldOutClip]:
    """What people.py wrote into `folder` with --held-out, whole and in words, mixed: the first ones stand for all."""
    clips = list(_clips(kept_back(folder), _PEOPLE))
    random.Random(1).shuffle(clips)
    return clips


def _clips(spoken: Iterable[Spoken], names: Mapping[str, str]) -> Iterator[HeldOutClip]:
    """0.3 s of silence around each; `names` are the conditions of the languages."""
    for number, (sentence, edges, samples, voice) in enumerate(spoken):
        if sentence is None:
            continue
        rng = random.Random(f"natural {number}")
        name = names[sentence.language]
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
        yield HeldOutClip(condition=name, recipe=recipe, waveform=waveform, words=words)


def add_to_demo(folder: Path) -> None:
    """Write the clips of NATURAL_CLIPS, and add their lines to the manifest."""
    spoken = {(clip.recipe.spoken, clip.recipe.voice.file): clip for clip in natural_clips(folder)}
    lines = []
    for recipe in NATURAL_CLIPS:
        clip = spoken[recipe.spoken, recipe.voice.file]
        soundfile.write(DEMO_DIR / f"{recipe.stem}.flac", clip.waveform, SAMPLE_RATE, subtype="PCM_16")
        lines.append(json.dumps(manifest_line(recipe, clip.words, ".flac"), ensure_ascii=False))
    with (DEMO_DIR / "manifest.jsonl").open("a", encoding="utf-8") as manifest:
        manifest.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    add_to_demo(parser.parse_args().shards)
