"""EngineConfig: all options of the engine, with defaults and units, checked."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import torch

from .checks import check_choice, check_fields, check_type
from .decoder.sharing import is_spread
from .devices.names import device_names
from .errors import ConfigError

Backend = Literal["auto", "vllm", "torch"]

FastLane = Literal["auto"] | bool

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_OTHER_DTYPE_NAMES = {"bfloat16": "bf16", "float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16"}
DEFAULT_MODEL_LEN = 4096
MIN_STALL_TIMEOUT_S = 10.0
# Checked before a prompt is tokenised, which takes up to 50 ms for 64 KiB and a second for a megabyte. A thousand
# hotwords take 12 KiB.
DEFAULT_PROMPT_BYTES = 64 << 10


class EngineOptions(TypedDict, total=False):
    """How the engine runs, by the names that users give; defaults are those of EngineConfig.

    device: "auto", "cpu", "cuda", "cuda:1" or "npu:0".
    devices: an engine on each of these, in a process of its own: "auto" for every GPU, or a list such as [0, 1] or
        ["cuda:0", "cuda:1"]. Only lists of inputs can be transcribed then.
    dtype: "bf16" or "fp32" for the LLM; PyTorch's and vLLM's names for them work as well. "auto" is bf16 if the device
        supports it, else fp32.
    encoder_dtype: the same for stage 1.
    backend: "vllm", "torch" (on any torch device), or "auto", which is vllm where it can run. On a CPU, "vllm" does
        without a fast lane and waits until vLLM is loaded.
    tensor_parallel_size: GPUs that share the LLM, in one engine with one process for each.
    gpu_memory_utilization: share of the GPU's memory that vLLM may take.
    max_model_len: positions of prompt and answer together; None is 4096, or less if the LLM has fewer.
    max_prompt_bytes: longest text around the audio of one input, hotwords and context included, in UTF-8.
    decoder_processes: number of vLLM engines, each in a process of its own; 0 runs one in this process. None is 1, or 0
        on a CPU without a fast lane.
    stall_timeout_s: an engine in a process of its own that has prompts but decodes no token for so many seconds is
        ended. Others that are left take its prompts; without any, DecodeError is raised. It must exceed the longest
        step.
    fast_lane: whether a second copy of the LLM, in PyTorch and in this process, decodes as long as few prompts wait,
        and while vLLM is loading. "auto": on an NVIDIA GPU, if the memory that vLLM leaves is enough; and on a CPU for
        an LLM of up to 100 MiB, where vLLM is loaded once prompts have to wait, if neither backend="vllm" nor vllm nor
        decoder_processes is given.
        True takes the memory in any case. On a GPU the log states how much it is.
    dither: standard deviation of the noise that is added to the 16-bit samples.
    speaker_model: directory or hub id of the model that tells speakers apart, loaded when speakers=True first asks for
        it; "auto" is the one that the extra "speakers" installs, or else CAM++ from the hub.
    vllm: further vLLM EngineArgs by name.
    """

    device: str | torch.device
    devices: str | Iterable[int | str | torch.device] | None
    dtype: str | torch.dtype
    encoder_dtype: str | torch.dtype
    backend: Backend
    tensor_parallel_size: int
    gpu_memory_utilization: float
    max_model_len: int | None
    max_prompt_bytes: int
    decoder_processes: int | None
    stall_timeout_s: float
    fast_lane: FastLane
    dither: float
    speaker_model: str | Path
    vllm: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """EngineOptions, complete and checked."""

    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", "npu:0"
    devices: str | tuple[str, ...] | None = None  # "auto" or names: an engine on each, in a process of its own
    dtype: str = "auto"  # of the LLM: "bf16" or "fp32"; "auto" is bf16 on a GPU that computes in it, else fp32
    encoder_dtype: str = "auto"  # of stage 1, likewise
    backend: Backend = "auto"  # "auto" is vllm if it can run here, else torch
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.8
    max_model_len: int | None = None  # positions of prompt and answer; None is 4096 or the LLM's own limit
    max_prompt_bytes: int = DEFAULT_PROMPT_BYTES  # in UTF-8: the text around one clip's audio, hotwords and context
    decoder_processes: int | None = None  # vLLM engines in processes of their own; 0: one in this process
    stall_timeout_s: float = 120.0  # longest time that such a process may have prompts and decode no token
    fast_lane: FastLane = "auto"  # a second copy of the LLM for few prompts; "auto", True or False
    dither: float = 0.0  # noise on the 16-bit samples; FunASR's default of 1.0 makes results differ between runs
    speaker_model: str | Path = "auto"  # "auto", a directory or a hub id
    vllm: Mapping[str, Any] = field(default_factory=dict)  # further EngineArgs of vLLM, by name

    @classmethod
    def of(cls, options: EngineOptions) -> Self:
        """The configuration for these options. Raises ConfigError."""
        given: dict[str, Any] = {**options, "vllm": options.get("vllm") or {}}
        if "device" in options:
            given["device"] = device_name(options["device"])
        if (devices := options.get("devices")) is not None:
            given["devices"] = device_names(devices)
        if "dtype" in options:
            given["dtype"] = dtype_name(options["dtype"])
        if "encoder_dtype" in options:
            given["encoder_dtype"] = dtype_name(options["encoder_dtype"], "encoder_dtype")
        return cls(**given)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in (("dtype", self.dtype), ("encoder_dtype", self.encoder_dtype)):
            if value == "fp16":
                raise ConfigError(f"{name}='fp16' makes these LLMs write '!!!!' or nothing; use 'bf16' or 'fp32'")
            check_choice(name, value, ("auto", *DTYPES))
        if self.tensor_parallel_size < 1:
            raise ConfigError(f"tensor_parallel_size must be at least 1, got {self.tensor_parallel_size}")
        if self.decoder_processes is not None and self.decoder_processes < 0:
            raise ConfigError(f"decoder_processes must be 0 or more, got {self.decoder_processes}")
        if is_spread(self.tensor_parallel_size, self.vllm) and self.decoder_processes not in (None, 1):
            raise ConfigError(
                "an engine that vLLM spreads over processes of its own (tensor_parallel_size="
                f"{self.tensor_parallel_size}, vllm={dict(self.vllm)}) is one, and not in this process: "
                f"decoder_processes must be 1, got {self.decoder_processes}"
            )
        self._check_devices()
        if not self.stall_timeout_s >= MIN_STALL_TIMEOUT_S:
            raise ConfigError(f"stall_timeout_s must be at least {MIN_STALL_TIMEOUT_S:.0f}, got {self.stall_timeout_s}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}")
        if self.max_prompt_bytes < 1:
            raise ConfigError(f"max_prompt_bytes must be at least 1, got {self.max_prompt_bytes}")
        if self.dither < 0:
            raise ConfigError(f"dither must be 0 or positive, got {self.dither}")

    def _check_devices(self) -> None:
        if self.devices is None:
            return
        if self.device != "auto":
            raise ConfigError(f"device and devices exclude each other, got {self.device!r} and {self.devices!r}")
        if is_spread(self.tensor_parallel_size, self.vllm):
            raise ConfigError(
                "devices gives each GPU an engine of its own, and vLLM cannot spread one over several GPUs then: leave "
                f"out tensor_parallel_size={self.tensor_parallel_size}, vllm={dict(self.vllm)}, or devices"
            )

    def torch_device(self) -> torch.device:
        """The device to use. Raises ConfigError for one that this machine lacks."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.startswith("npu"):
            _load_npu()
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device {self.device!r} cannot be used here: {error}") from error
        return device

    def torch_dtype(self, name: str, device: torch.device) -> torch.dtype:
        """The dtype to use on a device. `name` is the value of `dtype` or `encoder_dtype`."""
        if name != "auto":
            return DTYPES[name]
        has_bf16 = device.type == "npu" or (
            device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        )
        return torch.bfloat16 if has_bf16 else torch.float32


def dtype_name(dtype: str | torch.dtype, argument: str = "dtype") -> str:
    """EngineConfig's name for a dtype: "bf16" for torch.bfloat16 or "bfloat16", and so on."""
    check_type(argument, dtype, str | torch.dtype)
    name = str(dtype).removeprefix("torch.")
    return _OTHER_DTYPE_NAMES.get(name, name)


def device_name(device: str | torch.device) -> str:
    """EngineConfig's name for a device."""
    check_type("device", device, str | torch.device)
    return str(device)


def _load_npu() -> None:
    try:
        import torch_npu  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "device 'npu' needs torch_npu, which is not installed; install the release that matches "
            f"torch {torch.__version__}"
        ) from error
