"""What a capture of a CUDA graph leaves behind. Of the GPU there is only the name here."""

from typing import Any

import pytest
import torch

from tests.recorded_graphs import RecordedGenerator, RecordedGraph, record_graphs
from twostage_asr.engine.captures import capturing


@pytest.mark.parametrize("draws", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_only_what_draws_in_a_capture_finds_its_generator(
    monkeypatch: pytest.MonkeyPatch, draws: bool, fails: bool
) -> None:
    record_graphs(monkeypatch)
    ended: list[object] = []
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *where: ended.append(where))
    graph: Any = RecordedGraph()
    generator: Any = torch.cuda.default_generators[0]
    assert isinstance(generator, RecordedGenerator)
    before = generator.state
    try:
        with capturing(graph, pool=(0, 7), draws=draws):
            assert generator.state.is_marked == draws and (generator.state is before) != draws
            if fails:
                raise RuntimeError("operation not permitted when stream is capturing")
    except RuntimeError:
        assert fails
    assert generator.state is before and not before.is_marked
    assert ended == [(0, (0, 7))]


def test_the_end_of_allocations_need_not_be_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    record_graphs(monkeypatch)

    def end(*where: object) -> None:
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end)
    graph: Any = RecordedGraph()
    with capturing(graph, pool=(0, 7), draws=False):
        pass
