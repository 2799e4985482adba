"""What vLLM is given, and how it is shut down."""

import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pipeline import GREEDY, Clip, decode, prompt_embeds, token_ids
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.decoder import vllm_decoder
from twostage_asr.engine.decoder.base import LLMSource, Prompt
from twostage_asr.engine.decoder.vllm_decoder import VLLMDecoder, VLLMOptions, _Answer
from twostage_asr.engine.manifest import LLM_DIR_NAME, EngineManifest, LLMInfo

CPU = torch.device("cpu")


def given_to_vllm(monkeypatch: pytest.MonkeyPatch, rows: Tensor, **options: Any) -> Tensor:
    """The prompt embeddings that vLLM gets."""
    given: list[Any] = []
    engine = SimpleNamespace(
        input_processor=SimpleNamespace(process_inputs=lambda _, prompt, *args, **kwargs: given.append(prompt)),
        engine_core=SimpleNamespace(add_request=lambda request: None),
    )
    monkeypatch.setattr(vllm_decoder, "_start_engine", lambda arguments: engine)
    monkeypatch.setattr(VLLMDecoder, "_num_open", 0)
    info = LLMInfo(hidden_size=8, vocab_size=8, max_position_embeddings=64, eos_token_ids=(0,), tied=True)
    source = LLMSource(Path("nowhere"), info, rows.dtype, 64)
    VLLMDecoder(source, VLLMOptions(device=CPU, **options)).add(0, Prompt(rows, GREEDY))
    embeds: Tensor = given[0]["prompt_embeds"]
    assert torch.equal(embeds, rows)
    return embeds


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_parallel_size": 2},
        {"engine": {"pipeline_parallel_size": 2}},
        {"engine": {"distributed_executor_backend": "mp"}},
    ],
)
def test_prompts_for_other_processes_do_not_take_the_memory_around_them_along(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    rows = torch.ones(1 << 20, dtype=torch.uint8).view(torch.bfloat16).view(-1, 8)[100:110]
    assert len(pickle.dumps(given_to_vllm(monkeypatch, rows, **options))) < 2000


def test_prompts_for_this_process_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.ones(1 << 20, dtype=torch.uint8).view(torch.bfloat16).view(-1, 8)[100:110]
    assert given_to_vllm(monkeypatch, rows).data_ptr() == rows.data_ptr()


def test_engines_of_one_process_take_turns() -> None:
    """vLLM keeps the state of a pass in variables of its modules."""
    both, inside, most = threading.Event(), list[None](), list[int]()

    def get_output() -> Any:
        inside.append(None)
        most.append(len(inside))
        if len(inside) > 1:
            both.set()
        both.wait(0.1)
        inside.pop()
        return SimpleNamespace(outputs=[])

    decoders = [VLLMDecoder.__new__(VLLMDecoder) for _ in range(2)]
    for each in decoders:
        each._engine = SimpleNamespace(engine_core=SimpleNamespace(get_output=get_output))
        each._answers, each._is_eager = {0: _Answer()}, True
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda each: each.poll(), decoders)) == [[], []]
    assert most == [1, 1]


def test_an_engine_that_is_closed_leaves_others_in_this_process_alone(
    vllm_model: AutoModelVLLM,
    torch_models: dict[str, AutoModelVLLM],
    engine_dirs: dict[str, Path],
    clips: list[Clip],
) -> None:
    prompts = prompt_embeds(torch_models["low_frame_rate"].transcriber, clips[:3])
    expected = token_ids(decode(vllm_model.transcriber.decoder, prompts))
    directory = engine_dirs["low_frame_rate"]
    source = LLMSource(directory / LLM_DIR_NAME, EngineManifest.read(directory).llm, torch.float32, 512)
    other = VLLMDecoder(source, VLLMOptions(device=CPU))
    assert token_ids(decode(other, prompts)) == expected
    other.close()
    assert token_ids(decode(vllm_model.transcriber.decoder, prompts)) == expected


def test_vllm_reports_nothing_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    name, read = "VLLM_NO_USAGE_STATS", []
    started = SimpleNamespace(from_engine_args=lambda arguments, **_: read.append(os.environ[name]))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(EngineArgs=dict))
    monkeypatch.setitem(sys.modules, "vllm.usage.usage_lib", SimpleNamespace(UsageContext=SimpleNamespace(LLM_CLASS=0)))
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.llm_engine", SimpleNamespace(LLMEngine=started))
    monkeypatch.delenv(name, raising=False)
    vllm_decoder._start_engine({})
    assert name not in os.environ
    monkeypatch.setenv(name, "0")
    vllm_decoder._start_engine({})
    assert read == ["1", "0"]
