"""One table by kind of voice: espeak-ng, Kokoro's voices, people.

    python demos/micro/evaluate_voices.py --model DIR [--heldout MANIFEST] [--kokoro SHARDS]
        [--kokoro-held-out SHARDS] [--human HUMAN] [--digits DATASET] [--people DIR]

HUMAN holds manifest.jsonl (file, text, language, source, style) and nonspeech/. Digits, and whatever else is made of
words that the grammars have, count as known: right when the words are, whatever their case, marks and figures. Other
speech is unknown: right when nothing is written or the text is marked. No sound in nonspeech/ may have a text. Numbers
that synthesizers speak are to be written as each clip says, in figures or in words; those of people in words.

DATASET is a clone of the Free Spoken Digit Dataset (people_sets.py). Its recordings begin and end with the word: the
first ten of each digit and held-out speaker are heard as they are, and with 0.3 s of silence around, as a microphone or
a VAD would give them.
"""

import argparse
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import english
import mandarin
import numpy as np
import soundfile
from evaluate import edit_distance, without_punctuation
from everyday import known_words
from natural import natural_clips
from people import DIGITS, Floats, read_audio, read_people
from people_sets import FSDD_HELD_OUT, fsdd
from train.people import cut_words

SAMPLE_RATE = 16_000
_MOST_CLIPS = 150  # of Kokoro, of each kind and language
_MOST_DIGITS = 10  # of each digit and speaker
_SILENCE_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A recording, its words as `spoken_words` gives them, and the table's line that counts it."""

    source: Path
    words: str
    kind: str
    is_known: bool = True
    itn: bool = False  # numbers are asked for in figures
    is_mandarin: bool | None = None  # how figures are read; None: as the text's other characters say

    def said(self, text: str) -> str:
        """What was written, as `words` is, without spaces."""
        return spoken_words(text, is_mandarin=self.is_mandarin).replace(" ", "")


def human_clips(folder: Path) -> Iterator[Heard]:
    """English, Mandarin and other people, and the sounds of nonspeech/."""
    known = known_words()
    for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        words = spoken_words(row["text"])
        if row["file"].startswith("en_fsdd"):
            yield Heard(source=folder / row["file"], words=words, kind="people, digits (FSDD)")
            continue
        tokens = words.split() if row["language"] == "en" else list(words.replace(" ", ""))
        is_known = row["language"] in ("en", "zh") and is_made_of(words, tokens, known)
        kind = f"people, {'known' if is_known else 'unknown'} words, {row['language']}"
        yield Heard(source=folder / row["file"], words=words, kind=kind, is_known=is_known)
    for file in sorted((folder / "nonspeech").glob("*.flac")):
        yield Heard(source=file, words="", kind="music, noise, silence")


def _kokoro_clips(folder: Path, kind: str, out: Path) -> list[Heard]:
    """Each language's first clips, as files in `out`."""
    found: list[Heard] = []
    counts: dict[str, int] = defaultdict(int)
    for clip in natural_clips(folder):
        counts[clip.condition] += 1
        if counts[clip.condition] <= _MOST_CLIPS:
            source = out / f"{kind} {clip.recipe.key}.wav"
            soundfile.write(source, clip.waveform, SAMPLE_RATE, subtype="PCM_16")
            is_mandarin = clip.recipe.sentences[0].language == "中文"
            words = spoken_words(clip.recipe.text, is_mandarin=is_mandarin)
            name = f"Kokoro, {kind}, {clip.condition[:2]}"
            heard = Heard(source=source, words=words, kind=name, itn=clip.recipe.itn, is_mandarin=is_mandarin)
            found.append(heard)
    return found


def _digit_clips(dataset: Path, out: Path) -> Iterator[Heard]:
    """Digits of the held-out speakers, as they are and between silences, as files in `out`."""
    rows = fsdd(dataset, FSDD_HELD_OUT, most=_MOST_DIGITS)
    for kind, silence_s in (("as they are", 0.0), ("between silences", _SILENCE_S)):
        for number, row in enumerate(rows):
            source = out / f"digit {kind} {number:03d}.wav"
            _write(source, read_audio(row.file), silence_s)
            yield Heard(source=source, words=row.text, kind=f"people, digits (FSDD), {kind}")


def _people_clips(folder: Path, out: Path) -> Iterator[Heard]:
    """Whole recordings of people.py, and each digit, letter and other word of them, as files in `out`."""
    recordings = read_people(folder)
    for number, whole in enumerate(recordings):
        source = out / f"whole {number:04d}.wav"
        _write(source, whole.samples, 0.0)
        yield Heard(source=source, words=spoken_words(" ".join(whole.words)), kind="people, whole recordings")
    known = known_words()
    for number, cut in enumerate(word for each in recordings for word in cut_words(each)):
        (word,) = cut.words
        if word not in known:
            continue
        source = out / f"cut {number:04d}.wav"
        _write(source, cut.samples, _SILENCE_S)
        kind = "letters" if len(word) == 1 else "digits" if word in DIGITS else "other words"
        yield Heard(source=source, words=word, kind=f"people, {kind} cut out, between silences")


def _write(source: Path, samples: Floats, silence_s: float) -> None:
    waveform = np.pad(samples, round(silence_s * SAMPLE_RATE)) / 2
    soundfile.write(source, waveform, SAMPLE_RATE, subtype="PCM_16")


def is_made_of(words: str, tokens: list[str], known: frozenset[str]) -> bool:
    """Whether the model may be expected to write it: a saying, or a run of single words and letters."""
    return words in known or (words.isascii() and all(token in known for token in tokens))


def spoken_words(text: str, *, is_mandarin: bool | None = None) -> str:
    """Case folded, without marks, figures below 10,000 as words, of the text's own language unless it is given."""
    text = without_punctuation(text.replace("'", "\x00")).replace("\x00", "'")
    chinese = re.search(r"[\u4e00-\u9fff]", text) is not None if is_mandarin is None else is_mandarin
    say = mandarin.number_characters if chinese else english.number_words
    return re.sub(r"\d+", lambda found: _say_number(found.group(), say), text)


def _say_number(figures: str, say: Callable[[int], str]) -> str:
    if figures == "0" or (len(figures) < 5 and not figures.startswith("0")):
        return say(int(figures))
    return " ".join(say(int(figure)) for figure in figures)


def table(heard: list[Heard], written: list[tuple[str, bool]]) -> str:
    """Markdown; `written` holds each text and whether it is marked."""
    groups: dict[str, list[tuple[Heard, str, bool]]] = defaultdict(list)
    for clip, (text, is_marked) in zip(heard, written, strict=True):
        groups[clip.kind].append((clip, text, is_marked))
    lines = ["| voices | clips | CER % | right % |", "|---|---|---|---|"]
    for kind, rows in groups.items():
        pairs = [(clip.words.replace(" ", ""), clip.said(text)) for clip, text, _ in rows]
        characters = sum(len(right) for right, _ in pairs)
        errors = sum(edit_distance(right, text) for right, text in pairs)
        right = sum(is_right(*row) for row in rows)
        cer = f"{100 * errors / characters:.2f}" if characters and all(clip.is_known for clip, _, _ in rows) else "-"
        lines.append(f"| {kind} | {len(rows)} | {cer} | {100 * right / len(rows):.1f} |")
    return "\n".join(lines)


def is_right(clip: Heard, text: str, is_marked: bool) -> bool:
    """Known speech: all words right. Unknown speech: no text, or a marked one."""
    if not clip.is_known:
        return not text or is_marked
    return clip.words.replace(" ", "") == clip.said(text)


def transcribe(model_dir: str, heard: list[Heard]) -> list[tuple[str, bool]]:
    """Each clip's text, and whether the engine marks it."""
    from twostage_asr.engine import AutoModelVLLM

    written: dict[Path, tuple[str, bool]] = {}
    with AutoModelVLLM(model=model_dir, dtype="fp32", encoder_dtype="fp32", backend="torch") as model:
        for itn in {clip.itn for clip in heard}:
            sources = [clip.source for clip in heard if clip.itn == itn]
            results = model.generate([str(each) for each in sources], itn=itn)
            written |= {each: (found.text, bool(found.warnings)) for each, found in zip(sources, results, strict=True)}
    return [written[clip.source] for clip in heard]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--heldout", type=Path, help="manifest of espeak-ng's held-out clips")
    parser.add_argument("--kokoro", type=Path, help="what kokoro.py spoke for the training")
    parser.add_argument("--kokoro-held-out", type=Path, help="what kokoro.py spoke with --held-out")
    parser.add_argument("--human", type=Path)
    parser.add_argument("--digits", type=Path, help="clone of the Free Spoken Digit Dataset")
    parser.add_argument("--people", type=Path, help="what people.py wrote with --held-out")
    parser.add_argument("--show-errors", action="store_true")
    arguments = parser.parse_args()
    heard: list[Heard] = []
    with tempfile.TemporaryDirectory() as folder:
        if arguments.heldout:
            for line in arguments.heldout.read_text("utf-8").splitlines():
                row = json.loads(line)
                if not row["hotwords"]:
                    kind = f"espeak-ng, held out, {row['condition']}"
                    source = arguments.heldout.parent / row["source"]
                    heard.append(Heard(source=source, words=spoken_words(row["text"]), kind=kind, itn=row["itn"]))
        if arguments.kokoro:
            heard += _kokoro_clips(arguments.kokoro, "voices of the training", Path(folder))
        if arguments.kokoro_held_out:
            heard += _kokoro_clips(arguments.kokoro_held_out, "held-out voices", Path(folder))
        heard += human_clips(arguments.human) if arguments.human else []
        heard += _digit_clips(arguments.digits, Path(folder)) if arguments.digits else []
        heard += _people_clips(arguments.people, Path(folder)) if arguments.people else []
        written = transcribe(arguments.model, heard)
    if arguments.show_errors:
        for clip, (text, is_marked) in zip(heard, written, strict=True):
            print(f"{clip.kind} | {clip.words} | {text}{' (marked)' if is_marked else ''}")
    print(table(heard, written))


if __name__ == "__main__":
    main()
