"""In bfloat16, models that have learned something write it as their reference does."""

from pathlib import Path

import pytest
import torch

from tests import tiny_models
from tests.pipeline import decode
from tests.tones import clip
from twostage_asr.convert.export import ensure_converted
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.families import FAMILIES
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.text import LLMTokenizer

SECONDS = (0.7, 2.5, 9.0)
NUM_TOKENS = 10


@pytest.mark.parametrize("family", ["qwen3_asr", "glm_asr"])
def test_a_fitted_model_writes_the_same_in_bfloat16(family: str, tmp_path: Path) -> None:
    reference = getattr(tiny_models, family)(tmp_path)
    text, tokenizer = FAMILIES[family].prompt_text(Request()), LLMTokenizer(tmp_path)
    prompt = tokenizer.encode(text.prefix), tokenizer.encode(text.suffix)
    clips = [clip(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    targets = torch.randint(0, 250, (len(clips), NUM_TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    reference.fitted(clips, targets, prompt)
    in_bf16 = type(reference.model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    theirs = tiny_models.Reference(tmp_path, in_bf16, reference.inputs)
    assert [theirs.answer(one, *prompt, NUM_TOKENS) for one in clips] == targets
    engine_dir = ensure_converted(tmp_path, progress=False)
    with AutoModelVLLM(engine_dir, backend="torch", dtype="bf16", encoder_dtype="bf16") as model:
        transcriber = model.transcriber
        encoded = transcriber.acoustic.encode(clips, with_ctc=False).utterances()
        around = transcriber.embedder.embed(text).around
        params = DecodeParams(max_new_tokens=NUM_TOKENS, ignore_eos=True)
        hypotheses = decode(transcriber.decoder, [around(one.audio_embeds) for one in encoded], params)
    assert [list(hypothesis.token_ids) for hypothesis in hypotheses] == targets
