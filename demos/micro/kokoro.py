"""Natural voices: sentences for Kokoro-82M (Apache-2.0) to speak, its voices, and the shards that speak.py writes.

    python demos/micro/kokoro.py export --real REAL --out DIR         # the model and its voices; needs onnx
    python demos/micro/kokoro.py plan --count 20000 --out DIR         # phonemes; needs kokoro-onnx and misaki[zh]
    python demos/micro/kokoro.py plan --count 200 --held-out --out DIR
    python demos/micro/kokoro.py plan --count 2000 --unknown --out DIR

REAL holds kokoro/kokoro-v1.0.int8.onnx and kokoro/package/voices. A plan is text: each sentence's units and the ids of
its words' phonemes, so that speak.py needs no phonemisers. Unknown speech has no units: the recogniser learns to write
nothing for it. Imports no torch.
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accents import ENGLISH_VOICES, MANDARIN_VOICES, Accent, draw_accent
from english import ENGLISH
from everyday import DRILLS, EVERYDAY_ENGLISH, EVERYDAY_MANDARIN, is_reserved
from grammar import Grammar, Language, Sentence, Unit
from mandarin import MANDARIN
from phonemes import phonemes, unknown_phonemes

SAMPLE_RATE = 16_000
LANGUAGES: tuple[Language, ...] = ("英文", "中文")
HELD_OUT_VOICES = ("af_nova", "am_eric", "bm_lewis", "zf_xiaoni", "zm_yunyang", "zm_yunxi")

_DURATIONS = "/encoder/Clip_output_0"
_DRILL_SHARE = 0.3
_FOREIGN_SHARE = 0.3  # of blends in English, of which one manner is that of a voice of any language
_EVERYDAY_SHARE = 0.6  # of the other sentences
_NUM_PARTS = 2  # of the weights
_PEAK = 32_000
_PLAIN_SHARE = 0.25  # of sentences that one voice speaks as it is
_TIMBRE = 128  # the first half of a style; the second half is how it is said

Floats = npt.NDArray[np.float32]


def export(real: Path, out: Path) -> None:
    """Write the model as graph.py reads it, with a second output, the durations, and all voices as one file."""
    out.mkdir(parents=True, exist_ok=True)
    _export_graph(real / "kokoro" / "kokoro-v1.0.int8.onnx", out, also=_DURATIONS)
    files = sorted((real / "kokoro" / "package" / "voices").glob("*.bin"))
    voices = {file.stem: np.fromfile(file, np.float32).reshape(-1, 256)[:128].astype(np.float16) for file in files}
    np.savez(out / "voices.npz", **voices)


def _export_graph(model: Path, out: Path, *, also: str) -> None:
    """Write the nodes of an ONNX file as graph.json, and its weights in two files. `also` becomes an output."""
    import onnx
    from onnx import helper, numpy_helper

    graph = onnx.load(str(model)).graph

    def value(attribute: Any) -> Any:
        found = helper.get_attribute_value(attribute)
        if isinstance(found, onnx.TensorProto):
            return numpy_helper.to_array(found).tolist()
        return found.decode() if isinstance(found, bytes) else list(found) if hasattr(found, "__len__") else found

    nodes = [[n.op_type, list(n.input), list(n.output), {a.name: value(a) for a in n.attribute}] for n in graph.node]
    names = {"outputs": [graph.output[0].name, also], "nodes": nodes}
    (out / "graph.json").write_text(json.dumps(names), "utf-8")
    parts: list[dict[str, npt.NDArray[Any]]] = [{} for _ in range(_NUM_PARTS)]
    sizes = [0] * _NUM_PARTS
    for each in graph.initializer:
        part = sizes.index(min(sizes))
        parts[part][each.name] = numpy_helper.to_array(each)
        sizes[part] += parts[part][each.name].nbytes
    for number, part_weights in enumerate(parts):
        np.savez_compressed(out / f"weights.{number}.npz", **part_weights)


def plan(count: int, out: Path, *, held_out: bool, unknown: bool, seed: int) -> None:
    """Write `count` sentences with their phonemes, half of each language; `unknown` ones are random words."""
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"kokoro {seed} {held_out}{' unknown' * unknown}")
    lines: list[str] = []
    while len(lines) < count:
        if unknown:
            accent, language = Accent(), rng.choice(LANGUAGES)
            units, words = [], unknown_phonemes(language, rng)
        else:
            sentence = _draw(rng, held_out=held_out)
            accent = Accent() if held_out else draw_accent(rng)
            language, words = sentence.language, phonemes(sentence, accent)
            units = [astuple(unit) for unit in sentence.units]
        if words is not None:
            lines.append(plan_line(language, accent.voices if language == "英文" else MANDARIN_VOICES, units, words))
    (out / "plan.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def plan_line(language: Language, voices: str, units: Sequence[Sequence[Any]], words: Sequence[Sequence[int]]) -> str:
    """A sentence as speak.py reads it: `voices` are draw_style's letters, and each of the words is its phonemes."""
    row = {"language": language, "voices": voices, "units": units, "words": words}
    return json.dumps(row, ensure_ascii=False)


def _draw(rng: random.Random, *, held_out: bool) -> Sentence:
    while True:
        everyday, usual, drill = rng.choice(
            ((EVERYDAY_ENGLISH, ENGLISH, DRILLS[0]), (EVERYDAY_MANDARIN, MANDARIN, DRILLS[1]))
        )
        grammar: Grammar = everyday if rng.random() < _EVERYDAY_SHARE else usual
        if not held_out and rng.random() < _DRILL_SHARE:
            grammar = drill
        sentence = grammar.draw(rng)
        is_kept_back = sentence.is_held_out if grammar is usual else is_reserved(sentence)
        if held_out == is_kept_back or (held_out and len(sentence.words) <= 3 and rng.random() < 0.3):
            return sentence


def draw_style(voices: Mapping[str, Floats], letters: str, rng: random.Random) -> tuple[str, Floats]:
    """A name, and styles by number of phonemes (128, 256): a voice, or a blend of timbres and of manners.

    `letters` are the first ones of the voices whose manner it has, at least in part. With a foreign accent, every
    timbre is as likely as any other, because some languages have a single voice.
    """
    own = natives(voices, letters)
    manner = rng.choice(own)
    if rng.random() < _PLAIN_SHARE:
        return manner, voices[manner]
    is_accented = letters not in (ENGLISH_VOICES, MANDARIN_VOICES)
    pool = list(voices) if is_accented or rng.random() < 0.5 else own
    is_foreign = letters != MANDARIN_VOICES and rng.random() < _FOREIGN_SHARE
    timbres, manners = (rng.choice(pool), rng.choice(pool)), (manner, rng.choice(list(voices) if is_foreign else own))
    timbre, how = (np.float32(rng.uniform(0.0, 1.0)) for _ in range(2))
    style = how * voices[manners[0]] + (1 - how) * voices[manners[1]]
    blend = timbre * voices[timbres[0]] + (1 - timbre) * voices[timbres[1]]
    style[:, :_TIMBRE] = blend[:, :_TIMBRE]
    return f"{manner}*{how:.2f}+{manners[1]}/{timbres[0]}*{timbre:.2f}+{timbres[1]}", style


def natives(voices: Mapping[str, Floats], letters: str) -> list[str]:
    """Voices whose names begin with one of the letters, which say what language is their own."""
    return [name for name in voices if name[0] in letters]


def read_voices(path: Path, *, held_out: bool) -> dict[str, Floats]:
    """The styles of the held-out voices, or of all others."""
    with np.load(path) as voices:
        wanted = [name for name in voices.files if (name in HELD_OUT_VOICES) == held_out]
        return {name: voices[name].astype(np.float32) for name in wanted}


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """A line of a plan, spoken."""

    row: dict[str, Any]
    voice: str
    samples: Floats  # at 16 kHz
    edges: Floats  # (W, 2) start and end of each word in seconds


def write_shard(path: Path, spoken: Sequence[Spoken]) -> None:
    """Sentences, voices, samples scaled to one peak, and times of words, as `read_shards` reads them."""
    peaks = [max(float(np.abs(each.samples).max()), 1e-6) for each in spoken]
    pieces = [
        np.round(each.samples * (_PEAK / peak)).astype(np.int16) for each, peak in zip(spoken, peaks, strict=True)
    ]
    texts = [{"language": each.row["language"], "units": each.row["units"]} for each in spoken]
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file,
            texts=np.array([json.dumps(text, ensure_ascii=False) for text in texts]),
            voices=np.array([each.voice for each in spoken]),
            lengths=np.array([len(piece) for piece in pieces]),
            words=np.array([len(each.edges) for each in spoken]),
            audio=np.concatenate(pieces),
            edges=np.concatenate([each.edges for each in spoken]),
        )
    part.rename(path)


def read_shards(folder: Path) -> Iterator[tuple[Sentence | None, Floats, npt.NDArray[np.int16], str]]:
    """(sentence, edges (W, 2), samples, voice) of everything spoken; no sentence and no edges for unknown speech."""
    for path in sorted(folder.glob("*.npz")):
        yield from read_shard(path)


def read_shard(path: Path) -> Iterator[tuple[Sentence | None, Floats, npt.NDArray[np.int16], str]]:
    """The same of one file."""
    with np.load(path) as shard:
        audio, edges = shard["audio"], shard["edges"]
        ends, word_ends = np.cumsum(shard["lengths"]), np.cumsum(shard["words"])
        rows = zip(shard["texts"], shard["voices"], shard["lengths"], shard["words"], ends, word_ends, strict=True)
        for text, voice, length, words, end, word_end in rows:
            sentence = _read_sentence(json.loads(str(text)))
            own = edges[word_end - words : word_end] if sentence else edges[:0]
            yield sentence, own, audio[end - length : end], str(voice)


def _read_sentence(row: dict[str, Any]) -> Sentence | None:
    fields = ("spoken", "written", "plain", "alternative", "is_name")
    units = tuple(Unit(**dict(zip(fields, unit, strict=True))) for unit in row["units"])
    return Sentence(language=row["language"], units=units) if units else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["export", "plan"])
    parser.add_argument("--real", type=Path, help="what was fetched")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20_000, help="sentences of a plan")
    parser.add_argument("--held-out", action="store_true", help="sentences that training never has")
    parser.add_argument("--unknown", action="store_true", help="words that the recogniser does not know")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.what == "export":
        export(arguments.real, arguments.out)
    else:
        plan(
            arguments.count,
            arguments.out,
            held_out=arguments.held_out,
            unknown=arguments.unknown,
            seed=arguments.seed,
        )


if __name__ == "__main__":
    main()
