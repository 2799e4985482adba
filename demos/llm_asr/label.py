"""Whisper writes the texts of human recordings: python demos/llm_asr/label.py WHISPER AUDIO --out DIR [--kept N]

WHISPER is a directory in Hugging Face's layout, and AUDIO one of recordings. Every second one (`--kept`) goes to
DIR/kept, the others to DIR/train; give one recording a speaker, so that nobody is in both, or keep none back. Only
texts that Whisper is sure of are kept. Recordings to train on are also cut at their pauses, since few people speak to
a recogniser for 15 s. A phrase is kept if its words stand in the recording's text too. What is longer than 28 s is cut
there before. The labels are written as kokoro.py writes what Kokoro spoke. A GPU is used if there is one.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path += [str(Path(__file__).parents[1] / each) for each in ("micro", "hearing")]
from english import number_words
from kokoro import Spoken, write_shard
from talk import read
from texts import tidied
from transformers import WhisperForConditionalGeneration

from twostage_asr.encoders.whisper_features import log_mel
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.text import LLMTokenizer

LEAST_CONFIDENCE = -0.3  # mean log-probability of a token
RATES = (1.0, 4.5)  # words a second
PAUSE_S = 0.2
LEAST_S, MOST_S = 1.2, 9.0  # of a phrase
LEAST_PART_S, MOST_PART_S = 12.0, 28.0  # of what a recording that is too long is cut into
WINDOW_S = 30  # what Whisper hears at once
_FRAME = 160  # samples
_QUIET = (3.0, 0.1)  # times the level of a recording's quietest tenth, but at most this share of the loudest
SHARD = 100
_NUMBER = re.compile(r"(?<![\d.,:])\d{1,3}\b(?![.,:]\d)")
_MOST_TOKENS = 200
_PROMPT = "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"
_READERS = 8  # threads: decoders run without the interpreter's lock


class Labeller:
    """Greedy Whisper, which also says how sure it is."""

    def __init__(self, directory: Path) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._batch = 128 if self._device.type == "cuda" else 4
        self._tokenizer = LLMTokenizer(directory)
        model: Any = WhisperForConditionalGeneration.from_pretrained(directory)
        self._model = model.to(self._device, torch.bfloat16 if self._device.type == "cuda" else torch.float32).eval()
        (self._end,) = self._tokenizer.encode("<|endoftext|>")

    def __call__(self, waveforms: Sequence[Waveform]) -> list[tuple[str, float]]:
        """The text of each, of WINDOW_S at most, and the mean log-probability of its tokens."""
        order = sorted(range(len(waveforms)), key=lambda place: len(waveforms[place]))  # answers of like length
        found = dict[int, tuple[str, float]]()
        for start in range(0, len(order), self._batch):
            places = order[start : start + self._batch]
            found.update(zip(places, self._written([waveforms[place] for place in places]), strict=True))
            print(f"{min(start + self._batch, len(order))} of {len(order)} heard", flush=True)
        return [found[place] for place in range(len(waveforms))]

    @torch.inference_mode()
    def _written(self, waveforms: Sequence[Waveform]) -> Iterator[tuple[str, float]]:
        padded = torch.zeros(len(waveforms), WINDOW_S * SAMPLE_RATE)
        for row, each in zip(padded, waveforms, strict=True):
            row[: len(each)] = torch.from_numpy(each)
        lens = torch.full((len(waveforms),), padded.shape[1])
        features = log_mel(padded.to(self._device), lens, self._model.config.num_mel_bins).to(self._model.dtype)
        encoded, cache = self._model.get_encoder()(features), None
        ids = torch.tensor([self._tokenizer.encode(_PROMPT)] * len(waveforms), device=self._device)
        tokens, scores = [], []
        ended = torch.zeros(len(waveforms), dtype=torch.bool, device=self._device)
        while len(tokens) < _MOST_TOKENS and not bool(ended.all()):
            answer = self._model(encoder_outputs=encoded, decoder_input_ids=ids, past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            best = answer.logits[:, -1].float().log_softmax(-1).max(-1)
            ids = best.indices[:, None]
            tokens.append(best.indices.masked_fill(ended, self._end))
            scores.append(best.values.masked_fill(ended, 0.0))
            ended |= best.indices == self._end
        counts = torch.stack(tokens).ne(self._end).sum(0)
        means = torch.stack(scores).sum(0) / (counts + 1)  # the end counts
        for row, count, mean in zip(torch.stack(tokens, 1).tolist(), counts.tolist(), means.tolist(), strict=True):
            yield self._tokenizer.decode(row[:count]).strip(), mean


def accepted(text: str, confidence: float, seconds: float) -> str | None:
    """The text as the recogniser should write it, if it can be believed."""
    found = tidied(_NUMBER.sub(lambda each: number_words(int(each.group())), text)) if text else None
    if found is None or confidence < LEAST_CONFIDENCE:
        return None
    return found if RATES[0] <= len(found.split()) / seconds <= RATES[1] else None


def phrases(samples: Waveform, least_s: float = LEAST_S, most_s: float = MOST_S) -> list[Waveform]:
    """The pieces between pauses, each of `least_s` to `most_s`; what remains at the end and is shorter is left out."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    level = np.sqrt(np.square(frames).mean(1))
    limit = min(_QUIET[0] * np.quantile(level, 0.1), _QUIET[1] * level.max())
    is_quiet = np.r_[False, level <= limit, False]
    starts, ends = (np.flatnonzero(is_quiet[1:] & ~is_quiet[:-1]), np.flatnonzero(~is_quiet[1:] & is_quiet[:-1]))
    long = (ends - starts) * _FRAME >= PAUSE_S * SAMPLE_RATE
    cuts = [*((starts + ends) // 2 * _FRAME)[long], len(samples)]
    found, start = [], 0
    for cut in cuts:
        if cut - start >= least_s * SAMPLE_RATE:
            found.append(samples[start:cut])
            start = cut
    return [each for each in found if len(each) <= most_s * SAMPLE_RATE]


def is_part(phrase: str, text: str) -> bool:
    """Whether a phrase's words stand in a text one after another, whatever their case and marks."""
    inner, outer = (" ".join(re.findall(r"[a-z']+", each.lower())) for each in (phrase, text))
    return f" {inner} " in f" {outer} "


def spoken(text: str, voice: str, samples: Waveform) -> Spoken:
    """As a line of a plan that was spoken; times of words are not known."""
    row = {"language": "英文", "units": [[text, text, text, None, False]]}
    return Spoken(row, voice, samples, np.array([[0.0, len(samples) / SAMPLE_RATE]], np.float32))


def label(whisper: Path, audio: Path, out: Path, kept: int) -> None:
    """Write the shards; every `kept`-th recording is kept back, none if it is 0."""
    torch.set_num_threads(1)
    labeller = Labeller(whisper)
    paths = sorted(each for each in audio.rglob("*") if each.suffix in (".flac", ".wav", ".opus"))
    back = paths[1::kept] if kept else []
    for name, half in (("train", sorted({*paths} - {*back})), ("kept", back)):
        (out / name).mkdir(parents=True, exist_ok=True)
        found = _labelled(labeller, half, cut=name == "train")
        for number, start in enumerate(range(0, len(found), SHARD)):
            write_shard(out / name / f"{audio.name}_{number:05d}.npz", found[start : start + SHARD])


def _labelled(labeller: Labeller, paths: Sequence[Path], *, cut: bool) -> list[Spoken]:
    """The recordings whose text can be believed, and then also their phrases."""
    with ThreadPoolExecutor(_READERS) as readers:
        recordings = zip(paths, readers.map(read, paths), strict=True)
        named = [(f"{path.stem}{part}", each) for path, samples in recordings for part, each in _parts(samples)]
    wholes = _heard(labeller, named)
    if not cut:
        return wholes
    pieces = [
        (f"{each.voice}/{place}", piece, each.row["units"][0][0])
        for each in wholes
        for place, piece in enumerate(phrases(each.samples))
        if len(piece) < len(each.samples)
    ]
    heard = _heard(labeller, [(name, piece) for name, piece, _ in pieces])
    texts = {name: text for name, _, text in pieces}
    return [*wholes, *(each for each in heard if is_part(each.row["units"][0][0], texts[each.voice]))]


def _parts(samples: Waveform) -> list[tuple[str, Waveform]]:
    if len(samples) <= MOST_PART_S * SAMPLE_RATE:
        return [("", samples)]
    return [(f":{place}", part) for place, part in enumerate(phrases(samples, LEAST_PART_S, MOST_PART_S))]


def _heard(labeller: Labeller, named: Sequence[tuple[str, Waveform]]) -> list[Spoken]:
    found = []
    answers = labeller([samples for _, samples in named])
    for (name, samples), (text, confidence) in zip(named, answers, strict=True):
        seconds = len(samples) / SAMPLE_RATE
        kept = accepted(text, confidence, seconds)
        print(f"{name} {seconds:.1f} s {confidence:.2f} {'kept' if kept else 'left out'}: {kept or text}", flush=True)
        if kept is not None:
            found.append(spoken(kept, name, samples))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kept", type=int, default=2, help="every so-manieth recording is kept back; 0 keeps none")
    arguments = parser.parse_args()
    label(arguments.whisper, arguments.audio, arguments.out, arguments.kept)


if __name__ == "__main__":
    main()
