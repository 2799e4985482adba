"""How an engine with a trained checkpoint hears people: python demos/llm_asr/measure.py CHECKPOINT HUMAN

HUMAN holds manifest.jsonl (file, text, language, style, seconds) and nonspeech/. Printed are, of its English sentences:
the word error rate of each style; what is written for sounds without speech; texts that loop and answers that are cut,
and how many of them are marked; the same clips laid together to a long recording, against the clips alone; a live
session against the same segments offline; and the speed of a list. Words are compared without case and marks, figures
as words.
"""

import argparse
import contextlib
import itertools
import re
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[1] / each) for each in ("micro", "hearing")]
from evaluate_streaming import Counts, hear  # isort: skip  # also quiets libraries before they are imported

import numpy as np
import soundfile
from evaluate_voices import spoken_words
from talk import manifest, read, trimmed

from twostage_asr.engine import AutoModelVLLM, LiveOptions, Transcript, TranscriptionService
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.cli.error_rates import error_rates
from twostage_asr.engine.vad import load_vad

SINGLE = ("isolated", "keyword")  # how styles of single words begin
PAUSE_S = (0.3, 2.0)
FEW_TOKENS = 4  # an answer that is longer is cut, and must be marked
_LOOP = re.compile(r"(\b.{2,60}\b)(?:\W+\1){3,}")

Row = dict[str, Any]
Pairs = Sequence[tuple[str, str]]


def sentences(human: Path) -> list[Row]:
    """Rows of English sentences."""
    rows = [row for row in manifest(human) if row["language"] == "en"]
    return [row for row in rows if not row["style"].startswith(SINGLE)]


def rate(pairs: Pairs) -> str:
    """WER in percent, as a text."""
    counts = error_rates([(spoken_words(right), spoken_words(text)) for right, text in pairs])["WER"]
    return f"{100 * counts.errors / max(counts.num_units, 1):.1f} % ({counts.errors} of {counts.num_units})"


def warned(found: Sequence[Transcript]) -> str:
    """How often each warning was given, but for the one that this family always gives."""
    counts: dict[str, int] = defaultdict(int)
    for code in (each.code for result in found for each in result.warnings):
        counts[code] += code != "no_word_times"
    return ", ".join(f"{code} {count}" for code, count in counts.items() if count) or "none"


def loops(found: Sequence[Transcript]) -> str:
    """Texts that say the same four times in a row, and how many of them are marked."""
    looping = [each for each in found if _LOOP.search(each.text.lower())]
    marked = sum(any(w.code in ("repetition", "unfinished") for w in each.warnings) for each in looping)
    return f"{len(looping)}, of which {marked} are marked"


def marks(whole: Sequence[Transcript], cut: Sequence[Transcript]) -> str:
    """How many of the texts that lack their end are marked; an answer of so few tokens may have ended by itself."""
    short = [part for full, part in zip(whole, cut, strict=True) if part.text != full.text]
    marked = sum(any(each.code == "unfinished" for each in part.warnings) for part in short)
    return f"{marked} of {len(short)} marked"


def heard(model: AutoModelVLLM, paths: Sequence[str], **options: Any) -> list[Transcript]:
    """What the engine writes for these files. Raises RuntimeError for one that it cannot transcribe."""
    found = model.generate(list(paths), **options)
    for path, each in zip(paths, found, strict=True):
        if each.status == "error":
            raise RuntimeError(f"{path}: {each.error}")
    return found


def measure_clips(model: AutoModelVLLM, human: Path, rows: Sequence[Row], *, show: bool) -> None:
    """The sentences, the sounds, and answers that are cut on purpose."""
    paths = [str(human / row["file"]) for row in rows]
    found = heard(model, paths)
    by_style: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row, result in zip(rows, found, strict=True):
        by_style[row["style"]].append((row["text"], result.text))
        if show:
            print(f"{row['file']} | {spoken_words(row['text'])} | {result.text}")
    for style, pairs in by_style.items():
        print(f"WER of {len(pairs)} clips, {style}: {rate(pairs)}")
    print(f"WER of all {len(rows)} sentences: {rate([pair for pairs in by_style.values() for pair in pairs])}")
    print(f"warnings: {warned(found)}; texts that loop: {loops(found)}")
    others = sorted((human / "nonspeech").glob("*.flac"))
    texts = [result.text for result in heard(model, [str(each) for each in others])]
    print(f"sounds without speech: {len(others)}, with a text: {sum(map(bool, texts))} {[t for t in texts if t]}")
    cut = heard(model, paths, max_new_tokens=FEW_TOKENS)
    print(f"answers cut after {FEW_TOKENS} tokens: {marks(found, cut)}")


def measure_speed(model: AutoModelVLLM, human: Path, rows: Sequence[Row], num_clips: int) -> None:
    """A list of the sentences again and again, with all of the engine, after a pass that has warmed it up."""
    paths = list(itertools.islice(itertools.cycle(str(human / row["file"]) for row in rows), num_clips))
    model.transcriber.wait_until_complete()
    for _ in range(2):
        started = time.perf_counter()
        found = heard(model, paths)
        seconds = time.perf_counter() - started
    audio_s = sum(each.duration for each in found)
    print(f"{len(paths)} clips, {audio_s:.0f} s in {seconds:.1f} s: RTFx {audio_s / seconds:.1f}; {warned(found)}")


def lay_together(human: Path, rows: Sequence[Row], minutes: float, path: Path) -> list[str]:
    """Write the clips, each at one level, one after another and in a new order each time around; their texts."""
    rng, texts, samples = np.random.default_rng(1), list[str](), 0
    clips = {row["file"]: trimmed(read(human / row["file"])) for row in rows}
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        while samples < minutes * 60 * SAMPLE_RATE:
            for place in rng.permutation(len(rows)):
                pause = 1e-4 * rng.standard_normal(int(rng.uniform(*PAUSE_S) * SAMPLE_RATE))
                clip = clips[rows[place]["file"]]
                file.write(clip)
                file.write(pause)
                samples += len(clip) + len(pause)
                texts.append(rows[place]["text"])
                if samples >= minutes * 60 * SAMPLE_RATE:
                    break
    return texts


def measure_long(model: AutoModelVLLM, human: Path, rows: Sequence[Row], path: Path, minutes: float) -> None:
    """One recording of `minutes` minutes against its clips alone."""
    texts = lay_together(human, rows, minutes, path)
    started = time.perf_counter()
    (whole,) = heard(model, [str(path)])
    seconds = time.perf_counter() - started
    alone = heard(model, [str(human / row["file"]) for row in rows], vad=None)
    by_text = dict(zip((row["text"] for row in rows), (each.text for each in alone), strict=True))
    print(f"{whole.duration / 60:.1f} minutes laid together: WER {rate([(' '.join(texts), whole.text)])}")
    print(f"the same clips alone: WER {rate([(text, by_text[text]) for text in texts])}")
    print(f"{len(whole.segments)} segments in {seconds:.1f} s: RTFx {whole.duration / seconds:.1f}; {warned([whole])}")


def measure_live(model: AutoModelVLLM, human: Path, rows: Sequence[Row], path: Path, minutes: float) -> None:
    """One live session, which hears a recording in pieces of 100 ms, as fast as it can."""
    texts, counts = lay_together(human, rows, minutes, path), Counts()
    (item,) = expand_inputs(str(path))
    with contextlib.closing(TranscriptionService(model.transcriber)) as service:
        hear(service, LiveOptions(vad=load_vad()), item, " ".join(texts), counts)
    for name, pairs in (("live", counts.live), ("offline, same segments", counts.segments)):
        print(f"{name}: WER {rate(pairs)}")
    print(
        f"{counts.num_equal} of {counts.num_finals} finals are what offline transcription gives; "
        f"{counts.num_partials} partials, {counts.num_retracted} confirmed texts taken back"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("human", type=Path)
    parser.add_argument("--backend", default="auto", choices=["auto", "vllm", "torch"])
    parser.add_argument("--minutes", type=float, default=60.0, help="of the long recording; 0: none")
    parser.add_argument("--live-minutes", type=float, default=5.0, help="of the recording that is heard live; 0: none")
    parser.add_argument("--clips", type=int, help="of the list whose speed is measured (default: each sentence once)")
    parser.add_argument("--folder", type=Path, default=Path("."), help="for the recordings")
    parser.add_argument("--show", action="store_true", help="every text")
    arguments = parser.parse_args()
    human, rows = arguments.human, sentences(arguments.human)
    with AutoModelVLLM(arguments.checkpoint, backend=arguments.backend) as model:
        measure_clips(model, human, rows, show=arguments.show)
        if arguments.live_minutes:
            measure_live(model, human, rows, arguments.folder / "live.wav", arguments.live_minutes)
        measure_speed(model, human, rows, arguments.clips or len(rows))
        if arguments.minutes:
            measure_long(model, human, rows, arguments.folder / "long.wav", arguments.minutes)


if __name__ == "__main__":
    main()
