"""Which CUDA graphs are captured, when, and what they hold. Of the GPU there is only the name here."""

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recorded_graphs import Operations, RecordedGraph, record_graphs
from twostage_asr.engine.captures import CAPTURES
from twostage_asr.engine.decoder.llm import PLACE_COLUMNS, LLMOutput
from twostage_asr.engine.decoder.runner import (
    NUM_DRAFTED,
    PROMPT_LENGTHS,
    GraphRunner,
    LLMRunner,
    Place,
    Shape,
    padded_shape,
)

WIDTH = 4


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """The shapes that are captured, in their order."""
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_, **__: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(GraphRunner, "_try_kernels", lambda self: None)
    shapes: list[Shape] = []
    monkeypatch.setattr(GraphRunner, "_capture", lambda self, shape: shapes.append(shape) or shape)
    return shapes


def a_runner() -> GraphRunner:
    llm: Any = SimpleNamespace(device=torch.device("cuda"))
    return GraphRunner(llm, 8)


def test_the_first_text_waits_for_the_graphs_of_one_sequence_alone(captured: list[Shape]) -> None:
    ours = a_runner()
    ours.warm_up()
    of_one = [(False, 1, 1), (False, 1, 1 + NUM_DRAFTED), *((True, 1, length) for length in PROMPT_LENGTHS)]
    assert captured == of_one
    for number in range(1, 20):
        has_more = ours.warm_up_more()
        assert len(captured) == min(len(of_one) + number, 4 * len(of_one))  # 1, 2, 4 and 8 sequences
        assert has_more == (len(captured) < 4 * len(of_one))
    assert len(set(captured)) == len(captured)
    assert captured[4:6] == [(False, 2, 1), (False, 2, 1 + NUM_DRAFTED)]


def test_no_graph_is_captured_while_another_thread_compiles(captured: list[Shape]) -> None:
    ours = a_runner()
    ours.warm_up()
    shape = padded_shape(2, 1, None)
    assert shape is not None
    done: list[object] = []
    with CAPTURES:
        elsewhere = threading.Thread(target=lambda: done.extend([ours._captured_for(shape), ours.warm_up_more()]))
        elsewhere.start()
        elsewhere.join()
    assert done == [None, False] and shape not in captured
    ours.warm_up_more()
    assert captured[-1] == shape == ours._captured_for(shape)  # it was not forgotten


class Sums:
    """In place of an LLM: its answers name all that it has read, and a GPU could compute them."""

    device, dtype, config = torch.device("cpu"), torch.float32, SimpleNamespace(hidden_size=WIDTH)

    @torch.inference_mode()
    def run(self, ints: Tensor, embeds: Tensor | None = None) -> LLMOutput:
        if embeds is None:
            read = ints[:, PLACE_COLUMNS:].float()
        else:
            read = embeds[torch.arange(len(ints)), ints[:, 3].long()].sum(-1, keepdim=True)
        best = read.int() + 1000 * ints[:, :1] + 10_000 * ints[:, 1:2] + 100_000 * ints[:, 2:3]
        return LLMOutput(torch.stack([best, (read / 7).view(torch.int32)]), read[:, :1] * 3)


def some_steps() -> list[tuple[list[list[int]], list[Place]]]:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (3, 1), (2, 1 + NUM_DRAFTED), (4, 1), (1, 1), (3, 1)]
    return [
        (rng.integers(1, 300, size).tolist(), [Place(*rng.integers(1, 50, 3).tolist()) for _ in range(size[0])])
        for size in sizes
    ]


def some_prompts() -> list[tuple[list[Tensor], list[Place]]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [[40], [90, 7, 33], [3, 96, 2, 50], [600]]  # the last is too long for a graph
    prompts = [[torch.rand(length, WIDTH, generator=generator) * 100 for length in group] for group in lengths]
    return [(group, [Place(0, number, 900) for number in range(len(group))]) for group in prompts]


def test_a_graph_finds_in_each_pass_what_plain_passes_find(monkeypatch: pytest.MonkeyPatch) -> None:
    record_graphs(monkeypatch)
    llm: Any = Sums()
    plain, graphs = LLMRunner(llm), GraphRunner(llm, 4)
    for _ in range(2):  # captured, and replayed over what the passes before have left in the memory
        for given in some_prompts():
            expected, found = plain.prefill(*given), graphs.prefill(*given)
            assert (found.token_ids, found.log_probs) == (expected.token_ids, expected.log_probs)
        for tokens, places in some_steps():
            expected, found = plain.step(tokens, places), graphs.step(tokens, places)
            assert (found.token_ids, found.log_probs) == (expected.token_ids, expected.log_probs)
            assert torch.equal(found.logits[: len(places)], expected.logits)


def test_a_step_is_one_launch_and_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = record_graphs(monkeypatch)
    llm: Any = Sums()
    graphs = GraphRunner(llm, 4)
    step = [[1], [2], [3]], [Place(1, 2, 3)] * 3
    graphs.step(*step)  # it is captured
    launches: list[RecordedGraph] = []
    monkeypatch.setattr(RecordedGraph, "replay", lambda self: launches.append(self))
    stream.num_waits = 0
    with Operations() as operations:
        graphs.step(*step)
    assert (len(launches), stream.num_waits, operations.calls) == (1, 1, [])
