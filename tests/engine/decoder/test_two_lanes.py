"""A few prompts take the fast lane, many the large one; if that is loading, or cannot, nothing is lost or hidden."""

import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.decoder.tiny_llms import WIDTH, decoder_of, make_llm, source_of
from tests.fake_decoder import FakeDecoder, Rule
from tests.fake_model import fake_transcriber, samples, text_of, write_answer
from tests.pipeline import decode
from twostage_asr.engine import loader, transcribe_options
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.config import EngineConfig, EngineOptions
from twostage_asr.engine.decoder import backlog
from twostage_asr.engine.decoder.base import DecodeParams, LLMSource, PromptLimits
from twostage_asr.engine.decoder.torch_decoder import TorchDecoder, needed_bytes
from twostage_asr.engine.decoder.two_lanes import TwoLaneDecoder
from twostage_asr.engine.errors import ConfigError, DecodeError, PromptTooLongError
from twostage_asr.engine.loader import _fast_lane_prompts, _too_small

FAST, LARGE = 1, 2  # the tokens that the lanes write
NUM_ROWS = 2000  # of the fast lane's cache


class Slow(FakeDecoder):
    """It loads until it is told to end, or to fail."""

    def __init__(self, rule: Rule = lambda prompt: [LARGE] * 6) -> None:
        super().__init__(rule)
        self.may_end, self.error = threading.Event(), ""

    def wait_until_ready(self) -> None:
        assert self.may_end.wait(60)
        if self.error:
            raise DecodeError(self.error)

    def close(self) -> None:
        self.may_end.set()
        super().close()


class Fast(FakeDecoder):
    """It decodes three prompts at once, if its cache has rows for them."""

    def __init__(self, rule: Rule = lambda prompt: [FAST] * 6) -> None:
        super().__init__(rule, max_pending=3)

    def num_fitting(self, sizes: Sequence[int]) -> int:
        taken = sum(params.max_new_tokens for params in self.submitted[len(self.submitted) - self.num_pending :])
        sums = itertools.accumulate(sizes[: self.max_pending - self.num_pending])
        return sum(1 for rows in sums if taken + rows <= NUM_ROWS)


@pytest.fixture
def large() -> Slow:
    return Slow()


@pytest.fixture
def fast() -> Fast:
    return Fast()


@pytest.fixture
def decoder(fast: Fast, large: Slow) -> Iterator[TwoLaneDecoder]:
    decoder = TwoLaneDecoder(fast, large)  # type: ignore[arg-type]
    decoder.wait_until_ready()
    yield decoder
    decoder.close()
    assert fast.is_closed and large.is_closed


def prompts(count: int) -> list[Tensor]:
    return [torch.zeros(2, 4) for _ in range(count)]


def lanes(decoder: TwoLaneDecoder, count: int) -> list[int]:
    return [answer.token_ids[0] for answer in decode(decoder, prompts(count))]


def loaded(decoder: TwoLaneDecoder, large: Slow) -> None:
    large.may_end.set()
    decoder.wait_until_loaded()


def test_the_fast_lane_answers_while_the_other_loads(decoder: TwoLaneDecoder, large: Slow) -> None:
    assert decoder.max_pending == 3
    assert lanes(decoder, 7) == [FAST] * 7
    loaded(decoder, large)
    assert decoder.max_pending == large.max_pending


def test_the_number_of_prompts_chooses_the_lane(decoder: TwoLaneDecoder, large: Slow) -> None:
    loaded(decoder, large)
    assert lanes(decoder, 3) == [FAST] * 3
    assert lanes(decoder, 4) == [LARGE] * 4
    assert lanes(decoder, 1) == [FAST]


def test_prompts_go_where_others_are(decoder: TwoLaneDecoder, large: Slow, fast: FakeDecoder) -> None:
    """A large lane with prompts takes the next ones, and a full fast lane keeps its own."""
    loaded(decoder, large)
    for count in (2, 2, 1):
        for prompt in prompts(count):
            decoder.submit(prompt, DecodeParams())
        decoder._give_out()
    assert (fast.num_pending, large.num_pending, decoder.num_pending) == (2, 3, 5)


def test_prompts_that_wait_take_the_large_lane_as_soon_as_it_is_there(
    decoder: TwoLaneDecoder, large: Slow, fast: Fast
) -> None:
    """None waits within the fast lane, neither for its turn nor for rows of the cache."""
    for count, max_new_tokens, num_fast in ((5, 10, 3), (3, 900, 2)):
        fast.hold()
        ids = [decoder.submit(prompt, DecodeParams(max_new_tokens=max_new_tokens)) for prompt in prompts(count)]
        decoder._give_out()
        assert (fast.num_pending, large.num_pending) == (num_fast, 0)
        decoder._is_loaded = True
        decoder._give_out()
        assert (fast.num_pending, large.num_pending, decoder.num_pending) == (num_fast, count - num_fast, count)
        fast.release()
        done = [i for _ in range(3) for i, _ in decoder.poll()]
        assert sorted(done) == ids
        decoder._is_loaded = False


def test_the_rest_of_a_list_goes_to_the_large_lane_once_it_has_loaded(tmp_path: Path) -> None:
    fast, large = Fast(write_answer), Slow(write_answer)
    decoder = TwoLaneDecoder(fast, large)  # type: ignore[arg-type]
    decoder.wait_until_ready()
    transcriber = fake_transcriber(tmp_path, decoder=decoder, max_batch_frames=200)
    clips = [(samples(number), SAMPLE_RATE) for number in range(1, 61)]
    results = transcriber.run(expand_inputs(clips), transcribe_options())
    texts = dict(itertools.islice(results, 10))
    num_before = len(fast.submitted)
    assert num_before >= 10 and not large.submitted
    loaded(decoder, large)
    texts |= dict(results)
    assert {index: transcript.text for index, transcript in texts.items()} == {
        index: text_of(index + 1) for index in range(60)
    }
    assert len(fast.submitted) - num_before <= fast.max_pending  # the end of the list may be few clips
    assert len(fast.submitted) + len(large.submitted) == 60
    transcriber.close()


def test_prompts_can_be_followed_and_dropped_in_any_lane(decoder: TwoLaneDecoder, large: Slow) -> None:
    first = [decoder.submit(prompt, DecodeParams(), stream_tokens=True) for prompt in prompts(4)]
    assert decoder.partial_tokens(first[0]) == ()
    decoder.poll()
    assert decoder.partial_tokens(first[0]) == (FAST,) * 4
    decoder.cancel(first[1:])
    loaded(decoder, large)
    second = [decoder.submit(prompt, DecodeParams()) for prompt in prompts(4)]
    decoder.cancel(second[:1])
    done = [i for _ in range(3) for i, _ in decoder.poll()]
    assert sorted(done) == [first[0], *second[1:]] and decoder.num_pending == 0
    decoder.submit(prompts(1)[0], DecodeParams())
    decoder.cancel()
    assert decoder.num_pending == 0 and decoder.poll() == []


def test_what_ctrl_c_leaves_in_a_lane_is_dropped_with_the_rest(
    decoder: TwoLaneDecoder, fast: Fast, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = fast.add

    def interrupted(*prompt: Any) -> None:
        add(*prompt)
        raise KeyboardInterrupt

    monkeypatch.setattr(fast, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lanes(decoder, 1)
    monkeypatch.setattr(fast, "add", add)
    decoder.cancel()
    assert fast.num_pending == 0
    assert lanes(decoder, 1) == [FAST]


def test_an_engine_that_cannot_load_is_an_error(decoder: TwoLaneDecoder, large: Slow) -> None:
    large.error = "no memory"
    loaded(decoder, large)
    with pytest.raises(DecodeError, match="no memory"):
        decoder.poll()


def test_a_large_lane_that_shares_the_cores_loads_once_prompts_have_waited(
    fast: Fast, large: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = TwoLaneDecoder(fast, large, loads_at_once=False)  # type: ignore[arg-type]
    decoder.wait_until_ready()
    monkeypatch.setattr(backlog, "BACKLOG_S", 0.0)
    assert lanes(decoder, 3) == [FAST] * 3  # none waits
    assert not decoder._loading.is_alive()
    monkeypatch.setattr(backlog, "BACKLOG_S", 60.0)
    assert lanes(decoder, 7) == [FAST] * 7  # some wait, not for long
    assert not decoder._loading.is_alive()
    monkeypatch.setattr(backlog, "BACKLOG_S", 0.0)
    assert lanes(decoder, 10) == [FAST] * 10
    assert decoder._loading.is_alive()
    loaded(decoder, large)
    assert lanes(decoder, 4) == [LARGE] * 4
    decoder.close()


def test_a_job_that_began_without_the_large_lane_ends_without_it(
    fast: Fast, large: Slow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backlog, "BACKLOG_S", 0.0)
    decoder = TwoLaneDecoder(fast, large, loads_at_once=False)  # type: ignore[arg-type]
    decoder.wait_until_ready()
    large.error = "no memory"
    large.may_end.set()
    assert lanes(decoder, 10) == [FAST] * 10
    decoder.wait_until_loaded()
    assert lanes(decoder, 10) == [FAST] * 10
    assert "decoded without it: no memory" in caplog.text
    decoder.close()


def test_a_model_that_is_closed_while_it_loads_warns_of_nothing(
    fast: Fast, large: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = TwoLaneDecoder(fast, large, loads_at_once=False)  # type: ignore[arg-type]
    decoder._begin_loading()
    large.error = "its process has ended"
    decoder.close()
    assert not decoder._loading.is_alive() and not caplog.records


def test_a_large_lane_that_was_not_needed_is_never_loaded(fast: Fast, large: Slow) -> None:
    decoder = TwoLaneDecoder(fast, large, loads_at_once=False)  # type: ignore[arg-type]
    decoder.wait_until_ready()
    assert lanes(decoder, 1) == [FAST]
    decoder.close()
    assert decoder._loading.ident is None


def test_a_bad_prompt_is_refused_at_once(decoder: TwoLaneDecoder) -> None:
    with pytest.raises(PromptTooLongError):
        decoder.submit(torch.zeros(5000, 4), DecodeParams())
    assert decoder.num_pending == 0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LLMSource:
    return source_of(make_llm("qwen3"), tmp_path_factory.mktemp("qwen3"))


@pytest.mark.parametrize(
    ("options", "is_spread", "expected"),
    [
        ({}, False, True),
        ({"backend": "vllm"}, False, False),
        ({"vllm": {"max_num_seqs": 4}}, False, False),
        ({"decoder_processes": 1}, False, False),
        ({"decoder_processes": 0}, False, False),
        ({}, True, False),
        ({"fast_lane": False}, False, False),
        ({"fast_lane": True, "decoder_processes": 1}, False, True),
        ({"fast_lane": True, "backend": "vllm"}, False, True),
    ],
)
def test_there_is_a_fast_lane_where_it_makes_sense(
    source: LLMSource, options: EngineOptions, is_spread: bool, expected: bool
) -> None:
    """On a CPU, "auto" takes none where vLLM is asked for."""
    assert _fast_lane_prompts(source, EngineConfig.of(options), torch.device("cpu"), is_spread=is_spread) == (
        8 if expected else 0
    )


def test_a_large_llm_on_a_cpu_starts_with_vllm(source: LLMSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "SMALL_LLM_BYTES", 1000)
    assert not _fast_lane_prompts(source, EngineConfig(), torch.device("cpu"), is_spread=False)
    assert _fast_lane_prompts(source, EngineConfig(fast_lane=True), torch.device("cpu"), is_spread=False) == 8


@pytest.mark.parametrize("options", [{"decoder_processes": 0}, {"backend": "vllm"}, {"fast_lane": False}])
def test_where_there_is_none_its_decoder_is_not_imported(
    source: LLMSource, monkeypatch: pytest.MonkeyPatch, options: EngineOptions
) -> None:
    monkeypatch.setitem(sys.modules, TorchDecoder.__module__, None)  # an import raises ImportError
    assert not _fast_lane_prompts(source, EngineConfig.of(options), torch.device("cpu"), is_spread=False)


@pytest.mark.parametrize(("num_processes", "is_spread"), [(0, False), (1, True)])
def test_a_fast_lane_that_cannot_be_is_refused(source: LLMSource, num_processes: int, is_spread: bool) -> None:
    config, device = EngineConfig(fast_lane=True, decoder_processes=num_processes), torch.device("cpu")
    with pytest.raises(ConfigError, match="fast_lane=True: it needs a vLLM engine in one other process"):
        _fast_lane_prompts(source, config, device, is_spread=is_spread)


def test_auto_leaves_half_of_the_memory_to_stage_1(source: LLMSource, monkeypatch: pytest.MonkeyPatch) -> None:
    size = SimpleNamespace(total_memory=8 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: size)
    device = torch.device("cuda")
    assert not _too_small(device, 2 << 30, 0.5)
    assert _too_small(device, (2 << 30) + 1, 0.5) == (
        "it needs 2.0 GiB, more than half of the 4.0 GiB that gpu_memory_utilization leaves"
    )
    assert needed_bytes(source, 8) > source.directory.joinpath("model.safetensors").stat().st_size


@pytest.mark.parametrize(("num_prompts", "expected"), [(128, 128), (127, 64), (31, 16), (8, 8), (7, 0)])
def test_on_a_gpu_the_fast_lane_takes_as_many_prompts_as_fit(
    source: LLMSource, monkeypatch: pytest.MonkeyPatch, num_prompts: int, expected: int
) -> None:
    """The GPU has as much memory as a lane of `num_prompts` needs."""
    memory = SimpleNamespace(total_memory=4 * needed_bytes(source, num_prompts))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    config = EngineConfig(gpu_memory_utilization=0.5)
    assert _fast_lane_prompts(source, config, torch.device("cuda"), is_spread=False) == expected


@pytest.mark.parametrize("count", [1, 3])
def test_a_prompt_is_checked_once_whichever_lane_it_takes(
    source: LLMSource, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    checked: list[object] = []
    monkeypatch.setattr(PromptLimits, "check", lambda self, *prompt: checked.append(prompt))
    large = Slow()
    decoder = TwoLaneDecoder(decoder_of(source, 2), large)
    loaded(decoder, large)
    for _ in range(count):
        decoder.submit(torch.zeros(2, WIDTH), DecodeParams(max_new_tokens=1))
    assert len(decoder.poll()) == len(checked) == count
    assert bool(large.submitted) == (count > 2)
    decoder.close()
