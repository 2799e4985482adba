"""Which CUDA graphs are captured, and when. There is only the GPU's name here."""

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from twostage_asr.engine.captures import CAPTURES
from twostage_asr.engine.decoder.passes import NUM_DRAFTED, PROMPT_LENGTHS, GraphPasses, Shape, padded_shape


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """The shapes that are captured, in their order."""
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_, **__: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(GraphPasses, "_try_kernels", lambda self: None)
    shapes: list[Shape] = []
    monkeypatch.setattr(GraphPasses, "_capture", lambda self, shape: shapes.append(shape) or shape)
    return shapes


def passes() -> GraphPasses:
    llm: Any = SimpleNamespace(device=torch.device("cuda"))
    return GraphPasses(llm, 8)


def test_the_first_text_waits_for_the_graphs_of_one_sequence_alone(captured: list[Shape]) -> None:
    ours = passes()
    ours.warm_up()
    of_one = [(False, 1, 1), (False, 1, 1 + NUM_DRAFTED), *((True, 1, length) for length in PROMPT_LENGTHS)]
    assert captured == of_one
    for number in range(1, 20):
        ours.warm_up_more()
        assert len(captured) == min(len(of_one) + number, 4 * len(of_one))  # 1, 2, 4 and 8 sequences
    assert len(set(captured)) == len(captured)
    assert captured[4:6] == [(False, 2, 1), (False, 2, 1 + NUM_DRAFTED)]


def test_no_graph_is_captured_while_another_thread_compiles(captured: list[Shape]) -> None:
    ours = passes()
    ours.warm_up()
    shape = padded_shape(2, 1, None)
    assert shape is not None
    done: list[object] = []
    with CAPTURES:
        elsewhere = threading.Thread(target=lambda: done.extend([ours._captured_for(shape), ours.warm_up_more()]))
        elsewhere.start()
        elsewhere.join()
    assert done == [None, None] and shape not in captured
    ours.warm_up_more()
    assert captured[-1] == shape == ours._captured_for(shape)  # it was not forgotten
