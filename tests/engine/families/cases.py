"""Tiny checkpoints of every family, and what their references answer: classes of transformers here, those of FunASR and
of the qwen-asr package in files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests import tiny_llm_asr, tiny_models, tiny_qwen_asr
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.convert.export import ensure_converted
from twostage_asr.encoders.llm_asr import AdaptorKind, LLMASRTower, LLMASRTowerConfig
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.families.base import Request

NUM_TOKENS = 12
MODEL_LEN = 6144  # the Q-Former gives 5632 embeddings for every clip
PARAMS = DecodeParams(max_new_tokens=NUM_TOKENS, ignore_eos=True)
PLAIN = Request()
LLM_ASR_ANSWERS, QWEN_ASR_ANSWERS = (
    json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))
    for name in ("llm_asr_golden.json", "qwen_asr_tokens.json")
)

Spoken = tuple[tuple[float, Request], ...]  # seconds of a clip, and how it is asked for
QWEN_CLIPS: Spoken = tuple((s, PLAIN) for s in (0.3, 0.7, 1.0, 3.37, 8.0, 8.5, 12.34))  # windows have 8 s
FUN_ASR_CLIPS: Spoken = tuple((s, PLAIN) for s in (0.3, 1.0, 3.37, 12.34))
GLM_CLIPS: Spoken = tuple((s, PLAIN) for s in (0.1, 1.0, 7.5, 31.0))  # the last is heard in two windows
LLM_ASR_CLIPS: Spoken = tuple((s, PLAIN) for s in tiny_llm_asr.SECONDS)
PACKAGE_CLIPS: Spoken = tuple((s, Request(language=name, context=text)) for s, name, text in tiny_qwen_asr.CASES)
FITTED_SECONDS = (0.7, 2.5, 9.0)


@dataclass(frozen=True)
class GoldenAnswers:
    """In place of a reference that cannot run here."""

    directory: Path
    answers: dict[int, dict[str, Any]]  # by the clip's samples

    def answer(self, waveform: np.ndarray, prefix: list[int], suffix: list[int], num_tokens: int) -> list[int]:
        golden = self.answers[len(waveform)]
        assert prefix == golden["prefix_ids"]
        assert suffix == golden["suffix_ids"]
        assert num_tokens == len(golden["tokens"])
        return list(golden["tokens"])


Answers = tiny_models.Reference | GoldenAnswers


def llm_asr(directory: Path, *, adaptor: AdaptorKind, with_llm: bool = False) -> GoldenAnswers:
    """LLMASR with the LLM in a directory of its own, or in model.pt as well."""
    config = LLMASRTowerConfig(
        num_mels=80, encoder_dim=64, num_layers=2, num_positions=1500, adaptor=adaptor, llm_dim=64, ffn_dim=96
    )
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LLMASRTower(config).state_dict().items()}
    tiny_llm_asr.write_llm(directory / "llm")
    tiny_llm_asr.write_checkpoint(directory, adaptor, shapes, with_llm=with_llm)
    return GoldenAnswers(directory, _by_samples(LLM_ASR_CLIPS, LLM_ASR_ANSWERS[adaptor]))


def qwen_asr_package(directory: Path) -> GoldenAnswers:
    """What the qwen-asr package saves and answers."""
    golden = QWEN_ASR_ANSWERS["recognition"]
    tiny_qwen_asr.write_checkpoint(directory, golden["config"], golden["shapes"])
    return GoldenAnswers(directory, _by_samples(PACKAGE_CLIPS, golden["answers"]))


def _by_samples(spoken: Spoken, answers: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {round(s * SAMPLE_RATE): answer for (s, _), answer in zip(spoken, answers, strict=True)}


CASES: dict[str, tuple[Callable[[Path], Answers], Spoken]] = {
    "fun_asr_nano_hf": (tiny_models.fun_asr_nano, FUN_ASR_CLIPS),
    "fun_asr_nano_vllm": (partial(tiny_models.fun_asr_nano, vllm=True), FUN_ASR_CLIPS),
    "qwen_asr_package": (qwen_asr_package, PACKAGE_CLIPS),
    "qwen3_asr": (tiny_models.qwen3_asr, QWEN_CLIPS),
    "qwen3_asr_original": (partial(tiny_models.qwen3_asr, original=True), QWEN_CLIPS),
    "glm_asr": (tiny_models.glm_asr, GLM_CLIPS),
    "glm_asr_old": (partial(tiny_models.glm_asr, old=True), GLM_CLIPS),
    "llm_asr_linear": (partial(llm_asr, adaptor="Linear"), LLM_ASR_CLIPS),
    "llm_asr_linear_whole": (partial(llm_asr, adaptor="Linear", with_llm=True), LLM_ASR_CLIPS),
    "llm_asr_qformer": (partial(llm_asr, adaptor="QFormer"), LLM_ASR_CLIPS),
}
FITTED = ("qwen3_asr", "glm_asr", "llm_asr_linear")


@dataclass
class Case:
    """One checkpoint, its conversion loaded with the torch backend, and the tokens that are right."""

    directory: Path
    engine_dir: Path
    model: AutoModelVLLM
    clips: list[np.ndarray]
    prompts: list[Tensor]  # encoded together
    expected: list[list[int]]


def make_case(name: str, directory: Path) -> Case:
    """In float32."""
    make, spoken = CASES[name]
    reference = make(directory)
    clips = [clip(seconds, seed) for seed, (seconds, _) in enumerate(spoken)]
    case = _case(directory, "fp32", clips, [request for _, request in spoken])
    embedder, family = case.model.transcriber.embedder, case.model.transcriber.family
    for one, (_, request) in zip(clips, spoken, strict=True):
        prompt = embedder.embed(family.prompt_text(request))
        case.expected.append(reference.answer(one, list(prompt.prefix_ids), list(prompt.suffix_ids), NUM_TOKENS))
    return case


def make_fitted_case(name: str, directory: Path) -> Case:
    """In bfloat16: a model that has learned to answer random tokens, with clear leads."""
    reference = CASES[name][0](directory)
    clips = [clip(seconds, seed) for seed, seconds in enumerate(FITTED_SECONDS)]
    targets = torch.randint(0, 250, (len(clips), NUM_TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    untrained = _case(directory, "fp32", clips, [PLAIN] * len(clips))
    if isinstance(reference, tiny_models.Reference):
        prompt = untrained.model.transcriber.embedder.embed(untrained.model.transcriber.family.prompt_text(PLAIN))
        ids = list(prompt.prefix_ids), list(prompt.suffix_ids)
        reference.fitted(clips, targets, ids)
        in_bf16 = type(reference.model).from_pretrained(directory, dtype=torch.bfloat16)
        theirs = tiny_models.Reference(directory, in_bf16, reference.inputs)
        assert [theirs.answer(one, *ids, NUM_TOKENS) for one in clips] == targets
    else:
        _fit_llm(directory / "llm", untrained.prompts, targets)
    case = _case(directory, "bf16", clips, [PLAIN] * len(clips))
    case.expected = targets
    return case


def _case(directory: Path, dtype: str, clips: list[np.ndarray], requests: Sequence[Request]) -> Case:
    engine_dir = ensure_converted(directory, progress=False)
    model = AutoModelVLLM(engine_dir, backend="torch", dtype=dtype, encoder_dtype=dtype, max_model_len=MODEL_LEN)
    transcriber = model.transcriber
    embedded = [transcriber.embedder.embed(transcriber.family.prompt_text(request)) for request in requests]
    encoded = transcriber.acoustic.encode(clips, with_ctc=False).utterances()
    prompts = [p.around(utterance.audio_embeds) for p, utterance in zip(embedded, encoded, strict=True)]
    return Case(directory, engine_dir, model, clips, prompts, [])


def _fit_llm(directory: Path, prompts: Sequence[Tensor], targets: Sequence[list[int]]) -> None:
    """Train an LLM, but for the embeddings that its prompts are made of."""
    llm = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    embedding = llm.get_input_embeddings().requires_grad_(False)
    answers = torch.tensor(targets)
    optimizer = torch.optim.Adam([p for p in llm.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(200):
        loss = torch.zeros(())
        for prompt, answer in zip(prompts, answers, strict=True):
            logits = llm(inputs_embeds=torch.cat([prompt, embedding(answer)])[None]).logits[0]
            loss = loss + torch.nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], answer) / len(answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.1:
            break
    llm.save_pretrained(directory)
