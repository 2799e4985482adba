"""Every family writes the greedy tokens of its reference in fp32, on both backends, from all layouts, alone and in a
batch. The reference is the single-stage model of transformers; for LLMASR, FunASR's, whose tokens are in a file."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny_llm_asr, tiny_models
from tests.convert.checkpoints import read_tensors
from tests.paths import ROOT
from tests.pipeline import decode
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.verify import verify_conversion
from twostage_asr.encoders.llm_asr import AdaptorKind, LLMASRTower, LLMASRTowerConfig
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.families.base import Request

NUM_TOKENS = 12
MODEL_LEN = 6144  # the Q-Former gives 5632 embeddings for every clip
PARAMS = DecodeParams(max_new_tokens=NUM_TOKENS, ignore_eos=True)
QWEN_SECONDS = (0.3, 0.7, 1.0, 3.37, 8.0, 8.5, 12.34)  # below half a second, below one, at and beyond a window
GLM_SECONDS = (0.1, 1.0, 7.5, 31.0)  # the last is heard in two windows
GOLDEN = json.loads((Path(__file__).parent / "llm_asr_golden.json").read_text())


def llm_asr(directory: Path, *, adaptor: AdaptorKind, with_llm: bool = False) -> tiny_models.Reference:
    """LLMASR with the LLM in a directory of its own, or in model.pt as well."""
    config = LLMASRTowerConfig(
        num_mels=80, encoder_dim=64, num_layers=2, num_positions=1500, adaptor=adaptor, llm_dim=64, ffn_dim=96
    )
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LLMASRTower(config).state_dict().items()}
    tiny_llm_asr.write_llm(directory / "llm")
    tiny_llm_asr.write_checkpoint(directory, adaptor, shapes, with_llm=with_llm)
    answers = {round(s * SAMPLE_RATE): a for s, a in zip(tiny_llm_asr.SECONDS, GOLDEN[adaptor], strict=True)}

    def answer(waveform: np.ndarray, prefix: list[int], suffix: list[int], num_tokens: int) -> list[int]:
        golden = answers[len(waveform)]
        assert (prefix, suffix, num_tokens) == (golden["prompt_ids"], [], len(golden["tokens"]))
        return list(golden["tokens"])

    return tiny_models.Reference(directory, None, answer)


CASES: dict[str, tuple[Callable[[Path], tiny_models.Reference], tuple[float, ...]]] = {
    "qwen3_asr": (tiny_models.qwen3_asr, QWEN_SECONDS),
    "qwen3_asr_original": (partial(tiny_models.qwen3_asr, original=True), QWEN_SECONDS),
    "glm_asr": (tiny_models.glm_asr, GLM_SECONDS),
    "glm_asr_old": (partial(tiny_models.glm_asr, old=True), GLM_SECONDS),
    "llm_asr_linear": (partial(llm_asr, adaptor="Linear"), tiny_llm_asr.SECONDS),
    "llm_asr_linear_whole": (partial(llm_asr, adaptor="Linear", with_llm=True), tiny_llm_asr.SECONDS),
    "llm_asr_qformer": (partial(llm_asr, adaptor="QFormer"), tiny_llm_asr.SECONDS),
}
SAME_MODEL = (
    ("qwen3_asr", "qwen3_asr_original"),
    ("glm_asr", "glm_asr_old"),
    ("llm_asr_linear", "llm_asr_linear_whole"),
)


@dataclass
class Case:
    """One checkpoint, its conversion loaded with the torch backend, and the reference's tokens."""

    reference: tiny_models.Reference
    engine_dir: Path
    model: AutoModelVLLM
    prompts: list[Tensor]  # encoded together
    expected: list[list[int]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {name: make_case(tmp_path_factory.mktemp(name), *case) for name, case in CASES.items()}


def make_case(directory: Path, make: Callable[[Path], tiny_models.Reference], seconds: tuple[float, ...]) -> Case:
    reference = make(directory)
    engine_dir = ensure_converted(directory, progress=False)
    model = AutoModelVLLM(engine_dir, backend="torch", dtype="fp32", encoder_dtype="fp32", max_model_len=MODEL_LEN)
    transcriber = model.transcriber
    clips = [clip(s, seed) for seed, s in enumerate(seconds)]
    prompt = transcriber.embedder.embed(transcriber.family.prompt_text(Request()))
    prefix, suffix = list(prompt.prefix_ids), list(prompt.suffix_ids)
    encoded = transcriber.acoustic.encode(clips, with_ctc=False).utterances()
    return Case(
        reference,
        engine_dir,
        model,
        [prompt.around(utterance.audio_embeds) for utterance in encoded],
        [reference.answer(one, prefix, suffix, NUM_TOKENS) for one in clips],
    )


@pytest.mark.parametrize("name", CASES)
def test_torch_writes_the_reference_tokens(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    hypotheses = decode(case.model.transcriber.decoder, case.prompts, PARAMS)
    assert [list(hypothesis.token_ids) for hypothesis in hypotheses] == case.expected
    if name != "llm_asr_qformer":  # whose queries drown the rest
        assert min(len(set(tokens)) for tokens in case.expected) >= NUM_TOKENS // 2, "too dull to prove anything"


def test_vllm_writes_the_reference_tokens(cases: dict[str, Case], tmp_path: Path) -> None:
    names = ("qwen3_asr_original", "glm_asr", "llm_asr_linear")
    paths = [tmp_path / f"{name}.pt" for name in names]
    for name, path in zip(names, paths, strict=True):
        case = cases[name]
        torch.save({"directory": str(case.engine_dir), "prompts": case.prompts, "num_tokens": NUM_TOKENS}, path)
    command = [sys.executable, "-m", "tests.engine.families.decode_prompts", *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, path in zip(names, paths, strict=True):
        assert json.loads(path.with_suffix(".json").read_text()) == cases[name].expected, name


@pytest.mark.parametrize("name", CASES)
def test_a_clip_alone_has_the_embeddings_that_it_has_in_a_batch(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    acoustic, (_, seconds) = case.model.transcriber.acoustic, CASES[name]
    clips = [clip(s, seed) for seed, s in enumerate(seconds)]
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
    verification = verify_conversion(cases[name].reference.directory, cases[name].engine_dir)
    assert verification.num_tensors == len(read_tensors(cases[name].engine_dir))


@pytest.mark.parametrize("name", CASES)
def test_generate_runs_the_family(cases: dict[str, Case], name: str) -> None:
    (result,) = cases[name].model.generate([("clip", clip(2.0), SAMPLE_RATE)], max_new_tokens=8)
    assert (result.status, result.words) == ("ok", None)
    assert "forced_aligner= times its words" in {w.code: w.message for w in result.warnings}["no_word_times"]
