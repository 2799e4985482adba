"""Whisper writes the texts of human recordings: python demos/llm_asr/label.py WHISPER AUDIO --out DIR

WHISPER is a directory in Hugging Face's layout, and AUDIO one of recordings of up to 30 s. Every second one goes to
DIR/train, the others to DIR/kept; give one recording a speaker, so that nobody is in both. Only texts that Whisper is
sure of are kept. Recordings to train on are also cut at their pauses, since few people speak to a recogniser for 15 s.
A phrase is kept if its words stand in the recording's text too. They are written as kokoro.py writes what Kokoro spoke.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path += [str(Path(__file__).parents[1] / each) for each in ("micro", "hearing")]
from english import number_words
from kokoro import Spoken, write_shard
from talk import read
from texts import tidied
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.text import LLMTokenizer

LEAST_CONFIDENCE = -0.3  # mean log-probability of a token
RATES = (1.0, 4.5)  # words a second
PAUSE_S = 0.2
LEAST_S, MOST_S = 1.2, 9.0  # of a phrase
_FRAME = 160  # samples
_QUIET = (3.0, 0.1)  # times the level of a recording's quietest tenth, but at most this share of the loudest
SHARD = 10
_NUMBER = re.compile(r"(?<![\d.,:])\d{1,3}\b(?![.,:]\d)")
_MOST_TOKENS = 200
_PROMPT = "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"


class Labeller:
    """Greedy Whisper, which also says how sure it is."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = LLMTokenizer(directory)
        self._features = WhisperFeatureExtractor()
        self._model: Any = WhisperForConditionalGeneration.from_pretrained(directory).float().eval()
        (self._end,) = self._tokenizer.encode("<|endoftext|>")

    @torch.inference_mode()
    def __call__(self, waveform: Waveform) -> tuple[str, float]:
        """A text, and the mean log-probability of its tokens."""
        features = self._features(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        encoded = self._model.get_encoder()(features)
        ids, scores, cache = self._tokenizer.encode(_PROMPT), list[float](), None
        written: list[int] = []
        while len(written) < _MOST_TOKENS:
            inputs = torch.tensor([ids])
            answer = self._model(
                encoder_outputs=encoded, decoder_input_ids=inputs, past_key_values=cache, use_cache=True
            )
            cache = answer.past_key_values
            log_probs = answer.logits[0, -1].log_softmax(-1)
            ids = [int(log_probs.argmax())]
            scores.append(float(log_probs[ids[0]]))
            if ids[0] == self._end:
                break
            written += ids
        return self._tokenizer.decode(written).strip(), float(np.mean(scores))


def accepted(text: str, confidence: float, seconds: float) -> str | None:
    """The text as the recogniser should write it, if it can be believed."""
    found = tidied(_NUMBER.sub(lambda each: number_words(int(each.group())), text)) if text else None
    if found is None or confidence < LEAST_CONFIDENCE:
        return None
    return found if RATES[0] <= len(found.split()) / seconds <= RATES[1] else None


def phrases(samples: Waveform) -> list[Waveform]:
    """The pieces between pauses, each of LEAST_S to MOST_S; what remains at the end and is shorter is left out."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    level = np.sqrt(np.square(frames).mean(1))
    limit = min(_QUIET[0] * np.quantile(level, 0.1), _QUIET[1] * level.max())
    is_quiet = np.r_[False, level <= limit, False]
    starts, ends = (np.flatnonzero(is_quiet[1:] & ~is_quiet[:-1]), np.flatnonzero(~is_quiet[1:] & is_quiet[:-1]))
    long = (ends - starts) * _FRAME >= PAUSE_S * SAMPLE_RATE
    cuts = [*((starts + ends) // 2 * _FRAME)[long], len(samples)]
    found, start = [], 0
    for cut in cuts:
        if cut - start >= LEAST_S * SAMPLE_RATE:
            found.append(samples[start:cut])
            start = cut
    return [each for each in found if len(each) <= MOST_S * SAMPLE_RATE]


def is_part(phrase: str, text: str) -> bool:
    """Whether a phrase's words stand in a text one after another, whatever their case and marks."""
    inner, outer = (" ".join(re.findall(r"[a-z']+", each.lower())) for each in (phrase, text))
    return f" {inner} " in f" {outer} "


def spoken(text: str, voice: str, samples: Waveform) -> Spoken:
    """As a line of a plan that was spoken; times of words are not known."""
    row = {"language": "英文", "units": [[text, text, text, None, False]]}
    return Spoken(row, voice, samples, np.array([[0.0, len(samples) / SAMPLE_RATE]], np.float32))


def label(whisper: Path, audio: Path, out: Path) -> None:
    """Write the shards of both halves; those that are there are skipped."""
    torch.set_num_threads(1)
    labeller = Labeller(whisper)
    paths = sorted(each for each in audio.rglob("*") if each.suffix in (".flac", ".wav"))
    for name, half in (("train", paths[::2]), ("kept", paths[1::2])):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(0, len(half), SHARD):
            file = folder / f"{number // SHARD:05d}.npz"
            if not file.exists():
                found = [_labelled(labeller, each, cut=name == "train") for each in half[number : number + SHARD]]
                write_shard(file, [each for group in found for each in group])


def _labelled(labeller: Labeller, path: Path, *, cut: bool) -> list[Spoken]:
    """The recording, if its text can be believed, and then also its phrases."""
    samples = read(path)
    whole = _heard(labeller, samples, path.stem)
    if whole is None or not cut:
        return [] if whole is None else [whole]
    text = whole.row["units"][0][0]
    found = [_heard(labeller, each, f"{path.stem}/{place}") for place, each in enumerate(phrases(samples))]
    return [whole, *(each for each in found if each is not None and is_part(each.row["units"][0][0], text))]


def _heard(labeller: Labeller, samples: Waveform, name: str) -> Spoken | None:
    seconds = len(samples) / SAMPLE_RATE
    text, confidence = labeller(samples[: 30 * SAMPLE_RATE])
    kept = accepted(text, confidence, seconds) if seconds <= 30 else None
    print(f"{name} {seconds:.1f} s {confidence:.2f} {'kept' if kept else 'left out'}: {kept or text}", flush=True)
    return None if kept is None else spoken(kept, f"human/{name}", samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    label(arguments.whisper, arguments.audio, arguments.out)


if __name__ == "__main__":
    main()
