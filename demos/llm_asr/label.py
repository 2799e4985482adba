"""Whisper writes the texts of human recordings: python demos/llm_asr/label.py WHISPER AUDIO --out DIR

WHISPER is a directory in Hugging Face's layout, and AUDIO one of recordings of up to 30 s. Every second one goes to
DIR/train, the others to DIR/kept; give one recording a speaker, so that nobody is in both. Only texts that Whisper is
sure of are kept. They are written as kokoro.py writes what Kokoro spoke.
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
                write_shard(file, _labelled(labeller, half[number : number + SHARD]))


def _labelled(labeller: Labeller, paths: list[Path]) -> list[Spoken]:
    found = []
    for path in paths:
        samples = read(path)
        seconds = len(samples) / SAMPLE_RATE
        text, confidence = labeller(samples[: 30 * SAMPLE_RATE])
        kept = accepted(text, confidence, seconds) if seconds <= 30 else None
        print(
            f"{path.stem} {seconds:.1f} s {confidence:.2f} {'kept' if kept else 'left out'}: {kept or text}", flush=True
        )
        if kept:
            found.append(spoken(kept, f"human/{path.stem}", samples))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    label(arguments.whisper, arguments.audio, arguments.out)


if __name__ == "__main__":
    main()
