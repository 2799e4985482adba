"""What would run on a machine, and how fast: chosen as the engine chooses it, without starting any of it."""

import os
import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..cores import usable_cores
from ..errors import ConfigError
from .diagnosis import GIB, Finding

if TYPE_CHECKING:
    import torch

    from ..config import EngineConfig

# Seconds of audio in a second that were measured, see demos/speed.md, and measured_gflops() of that processor.
_H200_RTFX = "6,000 to 9,000"
_CPU_RTFX, _CPU_GFLOPS, _CPU_CORES = 8.8, 170.0, 2


def would_run(engine: dict[str, Any], *, measures: bool) -> Iterator[Finding]:
    """What a model would run on with these options (see EngineOptions), and how fast.

    With `measures`, the device is measured for a second.
    """
    try:
        from ..config import EngineConfig
        from ..decoder.sharing import installed_vllm_device
        from ..loader import backend_on
    except (ImportError, OSError) as error:
        yield Finding("would run", "bad", f"nothing: {str(error).splitlines()[0]}", "mend the lines above that are bad")
        return
    try:
        config = EngineConfig.of(engine)  # type: ignore[arg-type]
        device = config.torch_device()
        dtypes = [
            str(config.torch_dtype(name, device)).removeprefix("torch.")
            for name in (config.dtype, config.encoder_dtype)
        ]
    except ConfigError as error:
        yield Finding("would run", "bad", f"nothing with these options: {error}", "leave --device and --dtype at auto")
        return
    backend = backend_on(config, device)
    if backend == "vllm" and installed_vllm_device() != device.type:
        found = f"nothing: the backend vLLM is not installed for {device.type}"
        yield Finding("would run", "bad", found, "leave --backend at auto, or see the line vllm")
        return
    found = f"on {device}, the encoder in {dtypes[1]}, the LLM in {dtypes[0]} by {backend}"
    if backend == "vllm" and device.type == "cuda":
        found += f"; {_engines(config)}; {_fast_lane(config, device)}"
    yield Finding("would run", "ok", found)
    yield _speed(device, backend, dtypes[1], measures=measures)


def _engines(config: "EngineConfig") -> str:
    """How many vLLM engines decode on the GPU, and whether MPS lets them compute at the same time."""
    from ..decoder.mps import COMMON_PIPE, CONTROL, PIPE
    from ..decoder.process_decoder import CORES_PER_ENGINE, engines_by_cores
    from ..decoder.sharing import is_spread

    if is_spread(config.tensor_parallel_size, config.vllm):
        return f"one engine, which vLLM spreads over {config.tensor_parallel_size} GPUs"
    if config.decoder_processes is not None:
        return f"{config.decoder_processes} engine(s) as asked for"
    if PIPE not in os.environ and not (COMMON_PIPE / "control").exists() and shutil.which(CONTROL) is None:
        return f"one engine, because {CONTROL} (MPS) is not installed"
    most = f"up to {engines_by_cores()} when prompts wait (one for {CORES_PER_ENGINE} cores)"
    return f"one engine, and {most}, which share the GPU by MPS"


def _fast_lane(config: "EngineConfig", device: "torch.device") -> str:
    from ..loader import left_by_vllm

    if config.fast_lane is False:
        return "no fast lane"
    room = left_by_vllm(device, config.gpu_memory_utilization) / 2
    return f"a fast lane for few prompts, if a second copy of the LLM fits into {room / GIB:.1f} GiB"


def _speed(device: "torch.device", backend: str, dtype: str, *, measures: bool) -> Finding:
    """An estimate for Fun-ASR-Nano, from figures that were measured elsewhere, or from a short measurement here."""
    import torch

    exact = "twostage-asr bench --random measures a whole model, in minutes"
    gflops = measured_gflops(device, dtype) if measures else None
    measured = "" if gflops is None else f"{gflops:,.0f} GFLOP/s in {dtype} were measured here; "
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "cuda" and "H200" in name and backend == "vllm":
        return Finding(
            "speed", "ok", f"{measured}an H200 transcribes {_H200_RTFX} s of audio in a second, of many clips"
        )
    if device.type != "cpu" or dtype != "float32":
        return Finding("speed", "info", f"{measured}there is no figure for {name} with {backend} in {dtype}", exact)
    if gflops is None:
        share, how = (
            usable_cores() / _CPU_CORES,
            f"by the number of cores, {usable_cores()}; --measure asks the processor itself",
        )
    else:
        share, how = gflops / _CPU_GFLOPS, f"by the rate of products of matrices, {_CPU_GFLOPS:.0f} GFLOP/s there"
    found = (
        f"{measured}about {_CPU_RTFX * share:.1f} s of audio in a second: {_CPU_RTFX} were measured on {_CPU_CORES} "
        f"cores of an AMD EPYC, scaled {how}"
    )
    return Finding("speed", "info", found, exact)


def measured_gflops(device: "torch.device", dtype: str, seconds: float = 1.0) -> float:
    """The best rate of a product of two matrices of 2048 x 2048, in 10^9 operations a second.

    On a CPU one core is measured, by the time that it works for this process, and all are said to do the same.
    """
    import torch

    size, is_cpu, num_threads = 2048, device.type == "cpu", torch.get_num_threads()
    clock = time.thread_time if is_cpu else time.perf_counter
    torch.set_num_threads(1)
    try:
        left = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
        best, until = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            started = clock()
            product = left @ left
            product[0, 0].item()  # waits for the device
            best = max(best, 2 * size**3 / (clock() - started) / 1e9)
    finally:
        torch.set_num_threads(num_threads)
    return best * (usable_cores() if is_cpu else 1)
