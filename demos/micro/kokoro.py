"""Natural voices: sentences spoken by Kokoro-82M (Apache-2.0), with the times of their words.

    python demos/micro/kokoro.py export --real REAL --out DIR         # model with durations, voices; needs onnx
    python demos/micro/kokoro.py plan --count 20000 --out DIR         # phonemes; needs kokoro-onnx and misaki[zh]
    python demos/micro/kokoro.py plan --count 200 --held-out --out DIR
    python demos/micro/kokoro.py speak --model DIR --plan DIR/plan.jsonl --out SHARDS --seconds 150   # onnxruntime

REAL holds kokoro/kokoro-v1.0.int8.onnx and kokoro/package/voices. A plan is text: each sentence's units and the ids of
its words' phonemes, so that `speak` can run on a machine without the phonemisers. Shards are written as they are done
and skipped when `speak` runs again.
"""

import argparse
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
from english import ENGLISH
from everyday import EVERYDAY_ENGLISH, EVERYDAY_MANDARIN, is_reserved
from grammar import Grammar, Language, Sentence, Unit
from mandarin import MANDARIN

SAMPLE_RATE = 16_000
HELD_OUT_VOICES = ("af_nova", "am_eric", "bm_lewis", "zf_xiaoni", "zm_yunyang", "zm_yunxi")

_KOKORO_RATE = 24_000
_FRAME = 600  # Kokoro's samples per unit of duration
_DURATIONS = "/encoder/Clip_output_0"
_SHARD = 10  # sentences
_EVERYDAY_SHARE = 0.6
_SPEEDS = (0.75, 1.3)
_TIMBRE = 128  # the first half of a style; the second half is how it is said
_SPACE = 16  # Kokoro's id of " "
_KEPT_S = 0.04  # of the silence around a sentence
_LETTER_A = "ˈeɪ"

Floats = npt.NDArray[np.float32]


def export(real: Path, out: Path) -> None:
    """Write the model with a second output, the durations, in two parts, and all voices as one array."""
    import onnx
    from onnx import helper

    out.mkdir(parents=True, exist_ok=True)
    model = onnx.load(str(real / "kokoro" / "kokoro-v1.0.int8.onnx"))
    model.graph.output.append(helper.make_empty_tensor_value_info(_DURATIONS))
    data = model.SerializeToString()
    half = len(data) // 2
    (out / "kokoro.onnx.0").write_bytes(data[:half])
    (out / "kokoro.onnx.1").write_bytes(data[half:])
    files = sorted((real / "kokoro" / "package" / "voices").glob("*.bin"))
    voices = {file.stem: np.fromfile(file, np.float32).reshape(-1, 256)[:128].astype(np.float16) for file in files}
    np.savez(out / "voices.npz", **voices)


def plan(count: int, out: Path, *, held_out: bool, seed: int) -> None:
    """Write `count` sentences with their phonemes, half of each language."""
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"kokoro {seed} {held_out}")
    lines = []
    while len(lines) < count:
        sentence = _draw(rng, held_out=held_out)
        words = _phonemes(sentence)
        if words is not None:
            units = [astuple(unit) for unit in sentence.units]
            line = {"language": sentence.language, "units": units, "words": words}
            lines.append(json.dumps(line, ensure_ascii=False))
    (out / "plan.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def _draw(rng: random.Random, *, held_out: bool) -> Sentence:
    while True:
        everyday, usual = rng.choice(((EVERYDAY_ENGLISH, ENGLISH), (EVERYDAY_MANDARIN, MANDARIN)))
        grammar: Grammar = everyday if rng.random() < _EVERYDAY_SHARE else usual
        sentence = grammar.draw(rng)
        is_kept_back = is_reserved(sentence) if grammar is everyday else sentence.is_held_out
        if held_out == is_kept_back or (held_out and len(sentence.words) <= 3 and rng.random() < 0.3):
            return sentence


def _phonemes(sentence: Sentence) -> list[list[int]] | None:
    """Ids of each word's phonemes, the space before it included; None where a word has none."""
    words = _english_phonemes(sentence.words) if sentence.language == "英文" else _mandarin_phonemes(sentence.spoken)
    return words if all(words) and sum(map(len, words)) <= 120 else None


def _english_phonemes(words: tuple[str, ...]) -> list[list[int]]:
    tokenizer, _, _ = _phonemisers()
    is_spelled = all(len(word) == 1 for word in words)
    groups = [] if is_spelled else _say(" ".join(words)).split()
    if len(groups) != len(words):  # run together, "in the", or letters, of which each is said alone
        groups = [_LETTER_A if is_spelled and word == "a" else _say(word).replace(" ", "") for word in words]
    return [
        ([_SPACE] if place else []) + [int(token) for token in tokenizer.tokenize(group)]
        for place, group in enumerate(groups)
    ]


def _mandarin_phonemes(text: str) -> list[list[int]]:
    tokenizer, jieba, zh = _phonemisers()
    from pypinyin import Style, lazy_pinyin

    words: list[list[int]] = []
    for word in jieba.lcut(text):
        readings = lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True)
        for place, reading in enumerate(readings):
            sound = zh.ZHG2P.py2ipa(reading).replace(chr(815), "")
            gap = [_SPACE] if words and place == 0 else []
            words.append(gap + [int(token) for token in tokenizer.tokenize(sound)])
    assert len(words) == len(text), text
    return words


@cache
def _phonemisers() -> tuple[Any, Any, Any]:
    import jieba
    from kokoro_onnx.tokenizer import Tokenizer
    from misaki import zh

    return Tokenizer(), jieba, zh


@cache
def _say(text: str) -> str:
    return str(_phonemisers()[0].phonemize(text, "en-us"))


class Speaker:
    """Kokoro's model and voices, on one core."""

    def __init__(self, model: Path, *, held_out: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        data = (model / "kokoro.onnx.0").read_bytes() + (model / "kokoro.onnx.1").read_bytes()
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        with np.load(model / "voices.npz") as voices:
            wanted = [name for name in voices.files if (name in HELD_OUT_VOICES) == held_out]
            self._voices = {name: voices[name].astype(np.float32) for name in wanted}
        self._held_out = held_out

    def draw_style(self, language: Language, rng: random.Random) -> tuple[str, Floats]:
        """A name, and styles by number of phonemes (128, 256): a voice, or a blend of timbres with one's manner."""
        natives = [name for name in self._voices if name[0] in ("ab" if language == "英文" else "z")]
        manner = rng.choice(natives)
        if self._held_out or rng.random() < 0.4:
            return manner, self._voices[manner]
        first, second = rng.choice(natives), rng.choice(natives if rng.random() < 0.5 else list(self._voices))
        share = np.float32(rng.uniform(0.0, 1.0))
        style = self._voices[manner].copy()
        blend = share * self._voices[first] + (1 - share) * self._voices[second]
        style[:, :_TIMBRE] = blend[:, :_TIMBRE]
        return f"{manner}/{first}*{share:.2f}+{second}", style

    def speak(self, words: list[list[int]], style: Floats, speed: float) -> tuple[Floats, Floats]:
        """Waveform at 16 kHz, and start and end of each word (W, 2) in seconds."""
        tokens = [0, *(token for word in words for token in word), 0]
        feed = {
            "tokens": np.array([tokens], np.int64),
            "style": style[min(len(tokens) - 2, len(style) - 1)][None],
            "speed": np.array([speed], np.float32),
        }
        waveform, durations = self._session.run(None, feed)
        ends = np.cumsum(durations.reshape(-1)) * _FRAME / _KOKORO_RATE
        edges, place = [], 1
        for word in words:
            gap = 1 if word[0] == _SPACE else 0
            edges.append((ends[place + gap - 1], ends[place + len(word) - 1]))
            place += len(word)
        samples = soxr.resample(waveform.reshape(-1), _KOKORO_RATE, SAMPLE_RATE).astype(np.float32)
        loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
        kept = round(_KEPT_S * SAMPLE_RATE)
        first, last = max(int(loud[0]) - kept, 0), int(loud[-1]) + kept
        samples = samples[first:last]
        times = np.array(edges, np.float32) - first / SAMPLE_RATE
        return samples, times.clip(0, len(samples) / SAMPLE_RATE)


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
        texts, voices, pieces, edges = [], [], [], []
        for text in lines[number * _SHARD : (number + 1) * _SHARD]:
            row = json.loads(text)
            name, style = speaker.draw_style(row["language"], rng)
            samples, times = speaker.speak(row["words"], style, rng.uniform(*_SPEEDS))
            texts.append(json.dumps({"language": row["language"], "units": row["units"]}, ensure_ascii=False))
            voices.append(name)
            pieces.append(np.round(samples * (32_000 / max(float(np.abs(samples).max()), 1e-6))).astype(np.int16))
            edges.append(times)
            if time.time() > deadline:
                break
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(
                file,
                texts=np.array(texts),
                voices=np.array(voices),
                lengths=np.array([len(piece) for piece in pieces]),
                words=np.array([len(times) for times in edges]),
                audio=np.concatenate(pieces),
                edges=np.concatenate(edges),
            )
        part.rename(path)
        if time.time() > deadline:
            return


def read_shards(folder: Path) -> Iterator[tuple[Sentence, Floats, npt.NDArray[np.int16], str]]:
    """(sentence, edges (W, 2), samples, voice) of everything spoken."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as shard:
            audio, edges = shard["audio"], shard["edges"]
            ends, word_ends = np.cumsum(shard["lengths"]), np.cumsum(shard["words"])
            rows = zip(shard["texts"], shard["voices"], shard["lengths"], shard["words"], ends, word_ends, strict=True)
            for text, voice, length, words, end, word_end in rows:
                row = json.loads(str(text))
                fields = ("spoken", "written", "plain", "alternative", "is_name")
                units = tuple(Unit(**dict(zip(fields, unit, strict=True))) for unit in row["units"])
                sentence = Sentence(language=row["language"], units=units)
                yield sentence, edges[word_end - words : word_end], audio[end - length : end], str(voice)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["export", "plan", "speak"])
    parser.add_argument("--real", type=Path, help="what was fetched")
    parser.add_argument("--model", type=Path, help="folder that export wrote")
    parser.add_argument("--plan", type=Path, help="file that plan wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20_000, help="sentences of a plan")
    parser.add_argument("--held-out", action="store_true", help="the sentences, or voices, that training never has")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0, help="of speaking at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.what == "export":
        export(arguments.real, arguments.out)
    elif arguments.what == "plan":
        plan(arguments.count, arguments.out, held_out=arguments.held_out, seed=arguments.seed)
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
