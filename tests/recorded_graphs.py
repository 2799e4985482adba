"""CUDA graphs without a GPU: what is captured are the operations of PyTorch, and a replay does them again in place."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph:
    """In place of torch.cuda.CUDAGraph. Like it, it knows nothing of the values that the CPU has read."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    @torch.inference_mode()
    def replay(self) -> None:
        for function, args, kwargs, before in self.calls:
            again = tree_leaves(function(*args, **kwargs))
            for old, new in zip(tree_leaves(before), again, strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


class Operations(TorchDispatchMode):
    """Lists the operations that PyTorch does."""

    def __init__(self, calls: list[Any] | None = None) -> None:
        super().__init__()
        self.calls = [] if calls is None else calls

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


@contextlib.contextmanager
def _capturing(graph: RecordedGraph, **_: object) -> Iterator[None]:
    with Operations(graph.calls):
        yield


def record_graphs(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replace CUDA's graphs and streams; returns the only stream, which counts how often it is waited for."""
    stream = SimpleNamespace(num_waits=0, wait_stream=lambda other: None)

    def synchronize() -> None:
        stream.num_waits += 1

    stream.synchronize = synchronize
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", _capturing)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_, **__: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    return stream
