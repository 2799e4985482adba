"""A recogniser of human speech for the scripts of this folder: a Whisper checkpoint, greedy, through transformers.

It only serves to measure what detection and cutting do to a text. The engine itself does not run Whisper.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.text import LLMTokenizer

LANGUAGES = ("<|en|>", "<|zh|>")
MOST_TOKENS = 200


class Whisper:
    """Writes the text of up to 30 s of English or Mandarin."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        torch.set_num_threads(1)  # two threads on two busy cores take six times as long
        self._torch: Any = torch
        self._tokenizer = LLMTokenizer(directory)
        self._features = WhisperFeatureExtractor()
        self._model: Any = WhisperForConditionalGeneration.from_pretrained(directory).float().eval()

    def __call__(self, waveform: Waveform) -> str:
        with self._torch.inference_mode():
            features = self._features(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
            encoded = self._model.get_encoder()(features)
            start, end = self._ids("<|startoftranscript|>"), self._ids("<|endoftext|>")
            scores, cache = self._step(encoded, start, None)
            language = max(LANGUAGES, key=lambda name: float(scores[self._ids(name)[0]]))
            new, ids = self._ids(f"{language}<|transcribe|><|notimestamps|>"), list[int]()
            while len(ids) < MOST_TOKENS:
                scores, cache = self._step(encoded, new, cache)
                new = [int(scores.argmax())]
                if new == end:
                    break
                ids += new
        return self._tokenizer.decode(ids).strip()

    def _step(self, encoded: Any, new: Sequence[int], cache: Any) -> tuple[Any, Any]:
        """The scores of the next token, (V,), and the decoder's memory."""
        inputs = self._torch.tensor([list(new)])
        answer = self._model(encoder_outputs=encoded, decoder_input_ids=inputs, past_key_values=cache, use_cache=True)
        return answer.logits[0, -1], answer.past_key_values

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)
