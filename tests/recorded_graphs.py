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


class RecordedGenerator:
    """In place of a GPU's generator: PyTorch 2.11 draws nothing outside a capture from a state that is marked."""

    def __init__(self, state: SimpleNamespace | None = None) -> None:
        self.state = state or SimpleNamespace(is_marked=False)

    def clone_state(self) -> "RecordedGenerator":
        return RecordedGenerator()

    def graphsafe_get_state(self) -> "RecordedGenerator":
        return RecordedGenerator(self.state)

    def graphsafe_set_state(self, generator: "RecordedGenerator") -> None:
        self.state = generator.state

    def seed(self) -> None:
        pass


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
    generator: Any = torch.cuda.default_generators[0]
    marked = generator.state
    marked.is_marked = True
    with Operations(graph.calls):
        yield
    marked.is_marked = False  # not after a failure


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
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", (RecordedGenerator(),))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda device, pool: None, raising=False)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    return stream
