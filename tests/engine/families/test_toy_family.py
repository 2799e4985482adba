"""A new family is one file: this one has everything that one needs, and touches no other."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.tiny_llm_asr import write_llm
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.convert import families as convert_families
from twostage_asr.convert.layout import Family, Plan, check_fit, split_parts
from twostage_asr.convert.llm import list_llm_files, llm_shapes, plan_without_ctc, read_llm_config
from twostage_asr.convert.safetensors_file import read_checkpoint
from twostage_asr.convert.weights import plan_weights
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine import families as engine_families
from twostage_asr.engine.acoustic.base import EncodedBatch, StageOneOptions
from twostage_asr.engine.acoustic.runner import load_module
from twostage_asr.engine.families.base import Answer, Request
from twostage_asr.engine.hub.model_files import RepositoryFiles
from twostage_asr.engine.manifest import ACOUSTIC_NAME, EngineManifest
from twostage_asr.engine.prompt import PromptText

WIDTH, HOP = 64, 1600
TABLE = {"ears.": ("acoustic", ""), "": ("llm", "")}


class ToyAcousticModel:
    """A linear layer hears every 100 ms."""

    def __init__(self, ears: nn.Linear) -> None:
        self.ears = ears

    def num_frames(self, num_samples: int) -> int:
        return max(num_samples // HOP, 1)

    num_audio_tokens = num_frames

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        lens = [self.num_frames(len(waveform)) for waveform in waveforms]
        rows = torch.zeros(len(waveforms), max(lens), HOP)
        for row, waveform, count in zip(rows, waveforms, lens, strict=True):
            row.view(-1)[: min(count * HOP, len(waveform))] = torch.from_numpy(waveform[: count * HOP])
        return EncodedBatch(audio_embeds=self.ears(rows), audio_lens=lens, ctc_hidden=None, encoder_lens=lens)


class ToyFamily:
    """What the engine asks."""

    name, languages, best_length_s = "toy", (), 10.0

    def build_acoustic_model(
        self, engine_dir: Path, manifest: EngineManifest, options: StageOneOptions
    ) -> tuple[ToyAcousticModel, None]:
        size = manifest.acoustic["width"]
        return ToyAcousticModel(load_module(engine_dir / ACOUSTIC_NAME, lambda: nn.Linear(HOP, size), options)), None

    def prompt_text(self, request: Request) -> PromptText:
        return PromptText(prefix="hear ", suffix=" write")

    def parse_answer(self, answer: str, request: Request) -> Answer:
        return Answer(answer, "toy")


def plan(directory: Path, dtype: torch.dtype | None) -> Plan:
    config = read_llm_config(directory)
    weights = plan_weights(read_checkpoint(directory), dtype, None)
    needed = llm_shapes(config) | {"ears.weight": (WIDTH, HOP), "ears.bias": (WIDTH,)}
    check_fit(directory, needed=needed, found={name: weight.shape for name, weight in weights.items()})
    parts = split_parts(weights, TABLE)
    times_none = "a toy times no words"
    return plan_without_ctc(directory, config, parts, acoustic_config={"width": WIDTH}, no_times_reason=times_none)


CONVERSION = Family(
    name="toy",
    examples=("toys/toy",),
    sign="it holds toy.txt",
    recognises=lambda directory: (directory / "toy.txt").is_file(),
    files=RepositoryFiles(always=("toy.txt",), weights=()),
    read_tensors=read_checkpoint,
    name_table=TABLE,
    list_sources=lambda directory: {f.name: f for f in (*list_llm_files(directory), directory / "model.safetensors")},
    plan=plan,
)


def test_a_toy_family_transcribes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_llm(tmp_path)
    ears = {
        "ears.weight": torch.randn(WIDTH, HOP, generator=torch.Generator().manual_seed(0)),
        "ears.bias": torch.zeros(WIDTH),
    }
    save_file(load_file(tmp_path / "model.safetensors") | ears, tmp_path / "model.safetensors")
    (tmp_path / "toy.txt").touch()
    monkeypatch.setitem(engine_families.FAMILIES, "toy", ToyFamily())
    monkeypatch.setitem(convert_families.FAMILIES, "toy", CONVERSION)
    assert AutoModelVLLM.supported_models()["toy"] == ("toys/toy",)
    with AutoModelVLLM(tmp_path, backend="torch", dtype="fp32") as model:
        clips = [("a", clip(1.0), SAMPLE_RATE), ("b", clip(2.5, 1), SAMPLE_RATE)]
        together = model.generate(clips, max_new_tokens=6)
        assert [model.generate(one, max_new_tokens=6)[0].text for one in clips] == [r.text for r in together]
    assert all(r.status == "ok" and r.text and r.language == "toy" for r in together)
    assert json.loads((tmp_path / "twostage" / "engine.json").read_text())["family"] == "toy"
