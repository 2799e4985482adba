"""Every family writes the greedy tokens of its reference, on both backends, from all layouts, alone and in a batch: in
float32, and in bfloat16 where the model has learned something. The references are single-stage models, see cases.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.convert.checkpoints import read_tensors
from tests.engine.families.cases import CASES, FITTED, NUM_TOKENS, PARAMS, Case
from tests.paths import ROOT
from tests.pipeline import decode
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.convert.verify import verify_conversion

SAME_MODEL = (
    ("fun_asr_nano_hf", "fun_asr_nano_vllm"),
    ("qwen3_asr", "qwen3_asr_original"),
    ("glm_asr", "glm_asr_old"),
    ("llm_asr_linear", "llm_asr_linear_whole"),
)


def written(case: Case) -> list[list[int]]:
    return [list(hypothesis.token_ids) for hypothesis in decode(case.model.transcriber.decoder, case.prompts, PARAMS)]


@pytest.mark.parametrize("name", CASES)
def test_torch_writes_the_reference_tokens(cases: dict[str, Case], name: str) -> None:
    assert written(cases[name]) == cases[name].expected
    if name != "llm_asr_qformer":  # whose queries drown the rest
        assert min(len(set(tokens)) for tokens in cases[name].expected) >= NUM_TOKENS // 2, "too dull to prove anything"


@pytest.mark.parametrize("name", FITTED)
def test_torch_writes_them_in_bfloat16(fitted: dict[str, Case], name: str) -> None:
    assert written(fitted[name]) == fitted[name].expected


def test_vllm_writes_the_reference_tokens(cases: dict[str, Case], fitted: dict[str, Case], tmp_path: Path) -> None:
    exact = {name: cases[name] for name in ("qwen_asr_package", "glm_asr", "llm_asr_linear")}
    all_of_them = exact | {f"{name} in bf16": case for name, case in fitted.items()}
    paths = [tmp_path / f"{number}.pt" for number in range(len(all_of_them))]
    for case, path in zip(all_of_them.values(), paths, strict=True):
        dtype = case.model.transcriber.decoder.limits.dtype
        saved = {"directory": str(case.engine_dir), "prompts": case.prompts, "num_tokens": NUM_TOKENS, "dtype": dtype}
        torch.save(saved, path)
    command = [sys.executable, "-m", "tests.engine.families.decode_prompts", *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tokens = [json.loads(path.with_suffix(".json").read_text()) for path in paths]
    assert dict(zip(all_of_them, tokens, strict=True)) == {name: case.expected for name, case in all_of_them.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_clip_alone_has_the_embeddings_that_it_has_in_a_batch(cases: dict[str, Case], name: str) -> None:
    acoustic, clips = cases[name].model.transcriber.acoustic, cases[name].clips
    together = acoustic.encode(clips, with_ctc=False).utterances()
    for one, in_batch in zip(clips, together, strict=True):
        (alone,) = acoustic.encode([one], with_ctc=False).utterances()
        assert len(alone.audio_embeds) == acoustic.num_audio_tokens(len(one))
        torch.testing.assert_close(alone.audio_embeds, in_batch.audio_embeds, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("one", "other"), SAME_MODEL)
def test_both_layouts_are_one_model(cases: dict[str, Case], one: str, other: str) -> None:
    a, b = read_tensors(cases[one].engine_dir), read_tensors(cases[other].engine_dir)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", CASES)
def test_the_conversion_verifies(cases: dict[str, Case], name: str) -> None:
    verification = verify_conversion(cases[name].directory, cases[name].engine_dir)
    assert verification.num_tensors == len(read_tensors(cases[name].engine_dir))


@pytest.mark.parametrize("name", CASES)
def test_generate_runs_the_family(cases: dict[str, Case], name: str) -> None:
    (result,) = cases[name].model.generate([("clip", clip(2.0), SAMPLE_RATE)], max_new_tokens=8)
    assert (result.status, result.words) == ("ok", None)
    assert "forced_aligner= times its words" in {w.code: w.message for w in result.warnings}["no_word_times"]
