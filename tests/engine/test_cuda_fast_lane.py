"""The decoder for few prompts on an NVIDIA GPU: graphs and kernels write what plain PyTorch writes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.engine.decoder.test_drafts import Listed, drafted
from tests.engine.decoder.tiny_llms import decoder_of, make_llm, some_prompts, source_of
from tests.pipeline import decode, token_ids
from twostage_asr.engine.decoder.base import DecodeParams, Hypothesis, LLMSource
from twostage_asr.engine.decoder.runner import GraphRunner, Place
from twostage_asr.engine.decoder.torch_decoder import TorchDecoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
PROMPTS, PARAMS = some_prompts(8), DecodeParams(max_new_tokens=30, ignore_eos=True)


@pytest.fixture(scope="module", params=["qwen3", "qwen2", "llama"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLMSource:
    return source_of(make_llm(request.param), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def on_gpu(source: LLMSource) -> TorchDecoder:
    return decoder_of(source, 8, "cuda")


@pytest.fixture(scope="module")
def expected(source: LLMSource) -> list[Hypothesis]:
    return decode(decoder_of(source, 8), PROMPTS, PARAMS)


def check(answers: Sequence[Hypothesis], expected: Sequence[Hypothesis]) -> None:
    assert token_ids(answers) == token_ids(expected)
    for answer, other in zip(answers, expected, strict=True):
        assert answer.log_probs == pytest.approx(other.log_probs, abs=1e-3)


def test_graphs_write_what_pytorch_writes_on_a_cpu(on_gpu: TorchDecoder, expected: list[Hypothesis]) -> None:
    assert isinstance(on_gpu._runner, GraphRunner) and on_gpu._runner._has_graphs
    check(decode(on_gpu, PROMPTS, PARAMS), expected)


def test_one_row_is_like_eight(on_gpu: TorchDecoder, expected: list[Hypothesis]) -> None:
    check([decode(on_gpu, [prompt], PARAMS)[0] for prompt in PROMPTS], expected)


def test_steps_without_graphs_write_the_same(on_gpu: TorchDecoder, expected: list[Hypothesis]) -> None:
    runner = on_gpu._runner
    assert isinstance(runner, GraphRunner)
    captured, runner._captured, runner._has_graphs = runner._captured, {}, False
    check(decode(on_gpu, PROMPTS, PARAMS), expected)
    runner._captured, runner._has_graphs = captured, True


def test_a_step_is_one_launch_whose_graph_holds_the_copies(on_gpu: TorchDecoder) -> None:
    step = [[3]], [Place(0, 0, 8)]
    on_gpu._runner.step(*step)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        on_gpu._runner.step(*step)
    calls = {event.key: event.count for event in trace.key_averages()}
    assert calls.get("cudaGraphLaunch") == 1
    assert not {"aten::copy_", "cudaMemcpyAsync", "cudaLaunchKernel"} & calls.keys()


def test_drafts_change_no_token(on_gpu: TorchDecoder) -> None:
    plain, before = decode(on_gpu, some_prompts(5), PARAMS), on_gpu.counts
    texts = [[t ^ (i % 4 == 1) for i, t in enumerate(answer.token_ids)] for answer in plain]
    check(drafted(on_gpu, [Listed(text) for text in texts]), plain)
    assert on_gpu.counts.accepted > before.accepted


def test_sampled_answers_repeat_with_their_seed(on_gpu: TorchDecoder) -> None:
    params = DecodeParams(max_new_tokens=20, temperature=1.5, seed=4, ignore_eos=True)
    assert token_ids(decode(on_gpu, PROMPTS[:2], params)) == token_ids(decode(on_gpu, PROMPTS[:2], params))


def test_a_capture_that_fails_is_logged_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: GraphRunner, shape: object) -> None:
        raise RuntimeError("no graph")

    monkeypatch.setattr(GraphRunner, "_capture", fails)
    source = source_of(make_llm("qwen3"), tmp_path)
    decoder = decoder_of(source, 8, "cuda")
    assert "stage 2 goes on without CUDA graphs" in caplog.text
    assert token_ids(decode(decoder, PROMPTS, PARAMS)) == token_ids(decode(decoder_of(source, 8), PROMPTS, PARAMS))


def test_bfloat16_is_within_its_rounding(tmp_path: Path) -> None:
    source = source_of(make_llm("qwen3"), tmp_path)
    half = LLMSource(source.directory, source.info, torch.bfloat16, source.max_model_len)
    params = DecodeParams(max_new_tokens=1, ignore_eos=True)
    ours, plain = (decode(decoder_of(half, 8, device), PROMPTS, params) for device in ("cuda", "cpu"))
    close = [a.log_probs[0] == pytest.approx(b.log_probs[0], abs=0.15) for a, b in zip(ours, plain, strict=True)]
    assert sum(close) >= len(close) - 1
