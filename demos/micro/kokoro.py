"""Natural voices: sentences spoken by Kokoro-82M (Apache-2.0), with the times of their words.

    python demos/micro/kokoro.py export --real REAL --out DIR         # the model and its voices; needs onnx
    python demos/micro/kokoro.py plan --count 20000 --out DIR         # phonemes; needs kokoro-onnx and misaki[zh]
    python demos/micro/kokoro.py plan --count 200 --held-out --out DIR
    python demos/micro/kokoro.py plan --count 2000 --unknown --out DIR
    python demos/micro/kokoro.py speak --model DIR --plan DIR/plan.jsonl --out SHARDS --seconds 150   # a GPU helps

REAL holds kokoro/kokoro-v1.0.int8.onnx and kokoro/package/voices. A plan is text: each sentence's units and the ids of
its words' phonemes, so that `speak` can run on a machine without the phonemisers. Unknown speech has no units: the
recogniser learns to write nothing for it. Shards are written as they are done
and skipped when `speak` runs again.
"""

import argparse
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
from english import ENGLISH
from everyday import EVERYDAY_ENGLISH, EVERYDAY_MANDARIN, is_reserved
from grammar import Grammar, Language, Sentence, Unit
from graph import Graph, export_graph
from mandarin import MANDARIN
from phonemes import SPACE, phonemes, unknown_phonemes

SAMPLE_RATE = 16_000
LANGUAGES: tuple[Language, ...] = ("英文", "中文")
HELD_OUT_VOICES = ("af_nova", "am_eric", "bm_lewis", "zf_xiaoni", "zm_yunyang", "zm_yunxi")

_KOKORO_RATE = 24_000
_FRAME = 600  # Kokoro's samples per unit of duration
_DURATIONS = "/encoder/Clip_output_0"
_SHARD = 10  # sentences
_EVERYDAY_SHARE = 0.6
_SPEEDS = (0.75, 1.3)
_PEAK = 32_000
_PLAIN_SHARE = 0.4  # of sentences that one voice speaks as it is
_TIMBRE = 128  # the first half of a style; the second half is how it is said
_KEPT_S = 0.04  # of the silence around a sentence

Floats = npt.NDArray[np.float32]


def export(real: Path, out: Path) -> None:
    """Write the model as graph.py reads it, with a second output, the durations, and all voices as one file."""
    out.mkdir(parents=True, exist_ok=True)
    export_graph(real / "kokoro" / "kokoro-v1.0.int8.onnx", out, also=_DURATIONS)
    files = sorted((real / "kokoro" / "package" / "voices").glob("*.bin"))
    voices = {file.stem: np.fromfile(file, np.float32).reshape(-1, 256)[:128].astype(np.float16) for file in files}
    np.savez(out / "voices.npz", **voices)


def plan(count: int, out: Path, *, held_out: bool, unknown: bool, seed: int) -> None:
    """Write `count` sentences with their phonemes, half of each language; `unknown` ones are random words."""
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"kokoro {seed} {held_out}{' unknown' * unknown}")
    lines: list[str] = []
    while len(lines) < count:
        if unknown:
            language = rng.choice(LANGUAGES)
            units, words = [], unknown_phonemes(language, rng)
        else:
            sentence = _draw(rng, held_out=held_out)
            language, words = sentence.language, phonemes(sentence)
            units = [astuple(unit) for unit in sentence.units]
        if words is not None:
            lines.append(json.dumps({"language": language, "units": units, "words": words}, ensure_ascii=False))
    (out / "plan.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def _draw(rng: random.Random, *, held_out: bool) -> Sentence:
    while True:
        everyday, usual = rng.choice(((EVERYDAY_ENGLISH, ENGLISH), (EVERYDAY_MANDARIN, MANDARIN)))
        grammar: Grammar = everyday if rng.random() < _EVERYDAY_SHARE else usual
        sentence = grammar.draw(rng)
        is_kept_back = is_reserved(sentence) if grammar is everyday else sentence.is_held_out
        if held_out == is_kept_back or (held_out and len(sentence.words) <= 3 and rng.random() < 0.3):
            return sentence


def draw_style(voices: Mapping[str, Floats], language: Language, rng: random.Random) -> tuple[str, Floats]:
    """A name, and styles by number of phonemes (128, 256): a voice, or a blend of timbres with one's manner."""
    natives = _natives(voices, language)
    manner = rng.choice(natives)
    if rng.random() < _PLAIN_SHARE:
        return manner, voices[manner]
    first, second = rng.choice(natives), rng.choice(natives if rng.random() < 0.5 else list(voices))
    share = np.float32(rng.uniform(0.0, 1.0))
    style = voices[manner].copy()
    blend = share * voices[first] + (1 - share) * voices[second]
    style[:, :_TIMBRE] = blend[:, :_TIMBRE]
    return f"{manner}/{first}*{share:.2f}+{second}", style


def _natives(voices: Mapping[str, Floats], language: Language) -> list[str]:
    return [name for name in voices if name[0] in ("ab" if language == "英文" else "z")]


def read_voices(path: Path, *, held_out: bool) -> dict[str, Floats]:
    """The styles of the held-out voices, or of all others."""
    with np.load(path) as voices:
        wanted = [name for name in voices.files if (name in HELD_OUT_VOICES) == held_out]
        return {name: voices[name].astype(np.float32) for name in wanted}


class Speaker:
    """Kokoro's model and voices, on a GPU if there is one."""

    def __init__(self, model: Path, *, held_out: bool) -> None:
        torch.set_num_threads(1)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._graph = Graph(model, self._device)
        self._voices = read_voices(model / "voices.npz", held_out=held_out)
        self._held_out = held_out

    def draw_style(self, language: Language, rng: random.Random) -> tuple[str, Floats]:
        """See draw_style; held-out voices are not blended."""
        if self._held_out:
            name = rng.choice(_natives(self._voices, language))
            return name, self._voices[name]
        return draw_style(self._voices, language, rng)

    def speak(self, words: list[list[int]], style: Floats, speed: float) -> tuple[Floats, Floats]:
        """Waveform at 16 kHz, and start and end of each word (W, 2) in seconds."""
        tokens = [0, *(token for word in words for token in word), 0]
        feeds = {
            "tokens": torch.tensor([tokens]),
            "style": torch.from_numpy(style[min(len(tokens) - 2, len(style) - 1)][None]),
            "speed": torch.tensor([speed]),
        }
        found = self._graph.run({name: tensor.to(self._device) for name, tensor in feeds.items()})
        waveform, durations = (each.float().cpu().numpy().reshape(-1) for each in found)
        return _trim(waveform, _edges(words, np.cumsum(durations) * _FRAME / _KOKORO_RATE))


def _edges(words: list[list[int]], ends: Floats) -> Floats:
    """Start and end of each word in seconds, from the ends of all phonemes; the space before a word is not its own."""
    edges, place = [], 1
    for word in words:
        gap = 1 if word[0] == SPACE else 0
        edges.append((ends[place + gap - 1], ends[place + len(word) - 1]))
        place += len(word)
    return np.array(edges, np.float32)


def _trim(waveform: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """At 16 kHz, without most of the silence around it."""
    samples = soxr.resample(waveform, _KOKORO_RATE, SAMPLE_RATE).astype(np.float32)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    kept = round(_KEPT_S * SAMPLE_RATE)
    first, last = max(int(loud[0]) - kept, 0), int(loud[-1]) + kept
    samples = samples[first:last]
    return samples, (edges - first / SAMPLE_RATE).clip(0, len(samples) / SAMPLE_RATE)


def speak(model: Path, plan_file: Path, out: Path, *, seconds: float, workers: int, held_out: bool) -> None:
    """Speak the plan in `workers` processes, shard by shard, for at most `seconds`."""
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + seconds
    context = multiprocessing.get_context("fork")
    arguments = [(model, plan_file, out, deadline, held_out, index, workers) for index in range(workers)]
    processes = [context.Process(target=_speak_some, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    shards = sorted(out.glob("*.npz"))
    samples = sum(int(np.load(shard)["lengths"].sum()) for shard in shards)
    print(f"Kokoro: {len(shards)} shards, {samples / SAMPLE_RATE / 3600:.2f} h", flush=True)


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """A line of a plan, spoken."""

    row: dict[str, Any]
    voice: str
    samples: Floats  # at 16 kHz
    edges: Floats  # (W, 2) start and end of each word in seconds


def _speak_some(
    model: Path, plan_file: Path, out: Path, deadline: float, held_out: bool, index: int, count: int
) -> None:
    speaker = Speaker(model, held_out=held_out)
    lines = plan_file.read_text("utf-8").splitlines()
    for number in range(index, -(-len(lines) // _SHARD), count):
        path = out / f"{number:05d}.npz"
        if path.exists():
            continue
        rng = random.Random(f"kokoro voices {number}")
        spoken: list[Spoken] = []
        for text in lines[number * _SHARD : (number + 1) * _SHARD]:
            row = json.loads(text)
            name, style = speaker.draw_style(row["language"], rng)
            samples, edges = speaker.speak(row["words"], style, rng.uniform(*_SPEEDS))
            spoken.append(Spoken(row, name, samples, edges))
            if time.time() > deadline:
                break
        write_shard(path, spoken)
        if time.time() > deadline:
            return


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
    parser.add_argument("what", choices=["export", "plan", "speak"])
    parser.add_argument("--real", type=Path, help="what was fetched")
    parser.add_argument("--model", type=Path, help="folder that export wrote")
    parser.add_argument("--plan", type=Path, help="file that plan wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20_000, help="sentences of a plan")
    parser.add_argument("--held-out", action="store_true", help="the sentences, or voices, that training never has")
    parser.add_argument("--unknown", action="store_true", help="words that the recogniser does not know")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0, help="of speaking at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.what == "export":
        export(arguments.real, arguments.out)
    elif arguments.what == "plan":
        plan(
            arguments.count,
            arguments.out,
            held_out=arguments.held_out,
            unknown=arguments.unknown,
            seed=arguments.seed,
        )
    else:
        speak(
            arguments.model,
            arguments.plan,
            arguments.out,
            seconds=arguments.seconds,
            workers=arguments.workers,
            held_out=arguments.held_out,
        )


if __name__ == "__main__":
    main()
