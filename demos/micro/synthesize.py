"""Make the clips that the micro checkpoint can hear, each with its text and the times of its words.

    python demos/micro/synthesize.py --set demo                # demos/micro/clips
    python demos/micro/synthesize.py --set tests               # tests/data/clips
    python demos/micro/synthesize.py --set eval --out DIR      # DIR/tune and DIR/test, en/ and zh/, 100 clips each
    python demos/micro/synthesize.py --set heldout             # demos/micro/heldout, a few clips of each condition
    python demos/micro/synthesize.py --set heldout --clips 320 --out DIR       # all that the table of README.md counts
    python demos/micro/synthesize.py --set heldout --clips 320 --first-run 320 --out DIR      # others

Speech comes from espeak-ng; its library must be installed (see espeak.py). natural.py adds the demo's two clips of
natural voices. A set always has the same samples, given the
same espeak-ng (1.51 made the bundled clips). Every folder gets a manifest.jsonl with one line per clip:

    source    file, relative to the manifest; clips that differ in the prompt alone share one
    key       name of the clip
    text      what the model should write
    spoken    the words as they are said: lower case, no punctuation
    language  named in the prompt: "英文", "中文" or null
    hotwords  for the prompt
    itn       true: "25" for "twenty five"
    voice     espeak-ng voice file and settings, or Kokoro's voice
    words     [[word or character, start, end], ...] in seconds from the start of the clip
    condition name of the held-out set (heldout.py); only there
    name      that the hotwords are about, as it should be written; only in held-out sets about names
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile
from clip_sets import evaluation_sets, test_clips
from demo_clips import DEMO_CLIPS
from espeak import SAMPLE_RATE, Synthesizer
from heldout import CONDITIONS, draw_all
from render import Recipe, Words, render

HERE = Path(__file__).parent
DEMO_DIR = HERE / "clips"
TESTS_DIR = HERE.parents[1] / "tests" / "data" / "clips"
HELD_OUT_DIR = HERE / "heldout"
# Clips of each condition in the repository, fewer where they are long or noisy.
BUNDLED_HELD_OUT = {
    name: 1 if name.endswith("_long") or name == "noise" else 2 if condition.grammar is None else 4
    for name, condition in CONDITIONS.items()
}


def write_set(synthesizer: Synthesizer, recipes: Sequence[Recipe], folder: Path, *, suffix: str) -> None:
    """Write 16-bit audio files (`suffix` ".wav" or ".flac") and the manifest that lists them into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    words_of: dict[str, Words] = {}
    for recipe in recipes:
        if recipe.stem not in words_of:
            clip, words_of[recipe.stem] = render(synthesizer, recipe)
            soundfile.write(folder / (recipe.stem + suffix), clip, SAMPLE_RATE, subtype="PCM_16")
        lines.append(json.dumps(manifest_line(recipe, words_of[recipe.stem], suffix), ensure_ascii=False))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def write_held_out(counts: Mapping[str, int], folder: Path, *, first_run: int = 0) -> None:
    """Write that many clips of each condition, and one manifest, into `folder`; for `first_run` see draw_all()."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for clip in draw_all(counts, num_workers=os.cpu_count() or 1, first_run=first_run):
        soundfile.write(folder / f"{clip.recipe.stem}.flac", clip.waveform, SAMPLE_RATE, subtype="PCM_16")
        name = {} if clip.name is None else {"name": clip.name}
        line = manifest_line(clip.recipe, clip.words, ".flac") | {"condition": clip.condition} | name
        lines.append(json.dumps(line, ensure_ascii=False))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def manifest_line(recipe: Recipe, words: Words, suffix: str) -> dict[str, object]:
    """The clip's line in manifest.jsonl."""
    voice = recipe.voice
    is_natural = "/" not in voice.file  # files of espeak-ng lie in folders by language
    settings = f"{voice.name} rate={voice.rate} pitch={voice.pitch} range={voice.pitch_range}"
    return {
        "source": recipe.stem + suffix,
        "key": recipe.key,
        "text": recipe.text,
        "spoken": recipe.spoken,
        "language": recipe.hint,
        "hotwords": list(recipe.hotwords),
        "itn": recipe.itn,
        "voice": f"Kokoro-82M {voice.name}" if is_natural else settings,
        "words": [[word, round(start, 3), round(end, 3)] for word, start, end in words],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=["demo", "tests", "eval", "heldout"], required=True)
    parser.add_argument("--out", type=Path, help="folder; by default where the bundled clips are; needed for eval")
    parser.add_argument("--clips", type=int, help="of each condition of the held-out set")
    parser.add_argument("--first-run", type=int, default=0, help="run of 16 held-out clips at which the draw begins")
    arguments = parser.parse_args()
    if arguments.set == "eval" and arguments.out is None:
        parser.error("--set eval needs --out DIR")
    if arguments.set == "heldout":
        counts = dict.fromkeys(CONDITIONS, arguments.clips) if arguments.clips else BUNDLED_HELD_OUT
        write_held_out(counts, arguments.out or HELD_OUT_DIR, first_run=arguments.first_run)
        return
    synthesizer = Synthesizer()
    if arguments.set == "demo":
        write_set(synthesizer, DEMO_CLIPS, arguments.out or DEMO_DIR, suffix=".flac")
    elif arguments.set == "tests":
        write_set(synthesizer, test_clips(), arguments.out or TESTS_DIR, suffix=".flac")
    else:
        for folder, recipes in evaluation_sets(synthesizer):
            write_set(synthesizer, recipes, arguments.out / folder, suffix=".wav")


if __name__ == "__main__":
    main()
