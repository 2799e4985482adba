"""FunASR's names for its vLLM engines, so that a program needs to change only its import line.

    from funasr.auto.auto_model_vllm import AutoModelVLLM
    from funasr.models.fun_asr_nano.inference_vllm import FunASRNanoVLLM
    from funasr.models.fun_asr_nano.inference_vllm_streaming import FunASRNanoStreamingVLLM

become `from twostage_asr.engine.compat.funasr import ...`. Arguments that FunASR ignores silently are errors here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, Unpack

from .. import auto
from ..audio.inputs import Inputs
from ..checks import check_type
from ..errors import ConfigError
from ..options import GenerateOptions
from ..streaming import sdk
from ..transcript import Transcript

__all__ = ["AutoModelVLLM", "FunASRNanoStreamingVLLM", "FunASRNanoVLLM"]

DEFAULT_MODEL = "FunAudioLLM/Fun-ASR-Nano-2512"


class AutoModelVLLM(auto.AutoModelVLLM):
    """The engine's AutoModelVLLM with FunASR's additional arguments."""

    def __init__(self, model: str | Path, *, enforce_eager: bool = False, **options: Any) -> None:
        """`enforce_eager` runs vLLM without CUDA graphs. `options`: see the engine's AutoModelVLLM."""
        super().__init__(model, **_with_eager(options, enforce_eager))

    def generate(
        self,
        inputs: Inputs | None = None,
        *,
        input: Inputs | None = None,
        progress: bool = False,
        top_k: int = -1,
        **options: Unpack[GenerateOptions],
    ) -> list[Transcript]:
        """The engine's `generate`. `top_k` must be off (-1 or 0); any other value is a ConfigError."""
        if top_k not in (-1, 0):
            raise ConfigError(f"top_k must be -1, which is off, got {top_k!r}; top_p chooses among tokens")
        return super().generate(inputs, input=input, progress=progress, **options)


class FunASRNanoVLLM(AutoModelVLLM):
    """FunASR's other name for AutoModelVLLM."""

    @classmethod
    def from_pretrained(cls, model: str | Path = DEFAULT_MODEL, **options: Any) -> Self:
        """Load a model; takes the arguments of AutoModelVLLM."""
        return cls(model, **options)


class FunASRNanoStreamingVLLM(sdk.FunASRNanoStreamingVLLM):
    """The engine's FunASRNanoStreamingVLLM with FunASR's additional arguments."""

    def __init__(self, model: str | Path, *, enforce_eager: bool = False, **options: Any) -> None:
        """`enforce_eager` runs vLLM without CUDA graphs. `options`: see the engine's FunASRNanoStreamingVLLM."""
        super().__init__(model, **_with_eager(options, enforce_eager))

    @classmethod
    def from_pretrained(cls, model: str | Path = DEFAULT_MODEL, **options: Any) -> Self:
        """Load a model; takes the arguments of FunASRNanoStreamingVLLM."""
        return cls(model, **options)


def _with_eager(options: dict[str, Any], enforce_eager: bool) -> dict[str, Any]:
    check_type("vllm", options.get("vllm"), Mapping | None)
    if not enforce_eager:
        return options
    return {**options, "vllm": {"enforce_eager": True, **(options.get("vllm") or {})}}
