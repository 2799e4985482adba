"""Every argument of every public call, given None, "", [], a tuple or a generator: it works, or an error names it.

Nothing may come out of the inside of the engine, such as "'NoneType' object is not iterable".
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_models
from twostage_asr.engine import (
    ASRError,
    AudioLimits,
    AutoModelVLLM,
    FunASRNanoStreamingVLLM,
    FunASRNanoVLLM,
    GenerateOptions,
    LiveOptions,
    Qwen3ASRModel,
    Qwen3ForcedAligner,
    RequestOptions,
    SegmentRules,
    StreamingSession,
    TranscriptionService,
    auto,
    load_vad,
    parse_asr_output,
    session_options,
    transcribe_options,
)
from twostage_asr.engine.config import EngineOptions

ODD: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "empty string": str,
    "empty list": list,
    "empty tuple": tuple,
    "tuple": lambda: ("a", "b"),
    "generator": lambda: (letter for letter in ("a", "b")),
}
SAMPLES = np.zeros(8000, np.float32)


class Reached(Exception):  # noqa: N818
    """All arguments have been found good, and loading would begin."""


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are not looked for, and not loaded."""

    def reached(*_: object, **__: object) -> None:
        raise Reached

    for module in ("auto", "words.forced_aligner"):
        monkeypatch.setattr(f"twostage_asr.engine.{module}.resolve_model", reached)


def require_a_result_or_an_error_that_says_why(call: Callable[..., Any], name: str) -> None:
    for kind, make in ODD.items():
        try:
            result = call(**{name: make()})
            if isinstance(result, Iterator):
                list(result)
        except ASRError as error:
            assert len(str(error)) > 10, kind
        except Reached:
            pass
        except Exception as error:  # noqa: BLE001 - the very thing that must not happen
            pytest.fail(f"{name}={kind}: {type(error).__name__}: {error}")


def arguments(function: Callable[..., Any], *, without: tuple[str, ...] = ()) -> list[str]:
    names = [name for name, one in inspect.signature(function).parameters.items() if one.kind not in (2, 4)]
    return [name for name in names if name not in ("self", "unknown", *without)]


LOADERS: list[Callable[..., Any]] = [
    AutoModelVLLM,
    FunASRNanoVLLM.from_pretrained,
    FunASRNanoStreamingVLLM,
    Qwen3ASRModel.from_pretrained,
    Qwen3ASRModel.LLM,
    Qwen3ForcedAligner.from_pretrained,
]
ENGINE = list(EngineOptions.__annotations__)
MORE = {  # what a loader takes by way of its **options
    AutoModelVLLM: ENGINE,
    FunASRNanoStreamingVLLM: [
        "chunk_ms",
        "rollback_chars",
        "vad",
        "max_segment_s",
        "silence_schedule",
        "dynamic_silence",
    ],
    Qwen3ASRModel.from_pretrained: ["device_map", "dtype", "attn_implementation"],
    Qwen3ASRModel.LLM: ["device_map", "dtype", "gpu_memory_utilization", "max_num_seqs"],
}


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__qualname__)
def test_loading(no_loading: None, loader: Callable[..., Any]) -> None:
    own = [*arguments(loader), *MORE.get(loader, [])]
    names = own if loader is not FunASRNanoVLLM.from_pretrained else [*arguments(AutoModelVLLM), *ENGINE]
    for name in names:
        require_a_result_or_an_error_that_says_why(lambda **odd: loader(**{"model": "nowhere", **odd}), name)


@pytest.fixture(scope="module")
def model(torch_models: dict[str, AutoModelVLLM]) -> AutoModelVLLM:
    return torch_models["low_frame_rate"]


@pytest.mark.parametrize("name", ["inputs", "input", "progress", *GenerateOptions.__annotations__])
def test_generate(model: AutoModelVLLM, name: str) -> None:
    given = {} if name in ("inputs", "input") else {"inputs": SAMPLES}
    require_a_result_or_an_error_that_says_why(lambda **odd: model.generate(**{**given, **odd}), name)


@pytest.mark.parametrize("name", ["inputs", "ordered", "progress"])
def test_generate_iter(model: AutoModelVLLM, name: str) -> None:
    require_a_result_or_an_error_that_says_why(lambda **odd: model.generate_iter(**{"inputs": SAMPLES, **odd}), name)


def test_live_audio(model: AutoModelVLLM) -> None:
    service = TranscriptionService(model.transcriber)
    live = LiveOptions(vad=load_vad())
    try:
        for name in RequestOptions.__annotations__:
            require_a_result_or_an_error_that_says_why(
                lambda **odd: StreamingSession(service, session_options(**odd), live), name
            )
        session = StreamingSession(service, session_options(), live)
        require_a_result_or_an_error_that_says_why(session.push, "pcm")
    finally:
        service.close()
    for name in ("max_waiting", "batch_wait_s"):
        require_a_result_or_an_error_that_says_why(
            lambda **odd: _closed(TranscriptionService(model.transcriber, **odd)), name
        )


def _closed(service: TranscriptionService) -> None:
    service.close()


@pytest.mark.parametrize("kind", [AudioLimits, SegmentRules, load_vad, parse_asr_output, transcribe_options])
def test_what_is_built_without_a_model(kind: Callable[..., Any]) -> None:
    names = arguments(kind) or list(GenerateOptions.__annotations__)
    given = {"raw": "hello"} if kind is parse_asr_output else {}
    for name in names:
        require_a_result_or_an_error_that_says_why(lambda **odd: kind(**{**given, **odd}), name)
    for name in arguments(LiveOptions, without=("vad",)):
        require_a_result_or_an_error_that_says_why(lambda **odd: LiveOptions(vad=load_vad(), **odd), name)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Qwen3ASRModel, Qwen3ForcedAligner]]:
    base: Path = tmp_path_factory.mktemp("qwen")
    tiny_models.qwen3_asr(base / "asr")
    tiny_models.qwen3_forced_aligner(base / "aligner")
    aligner = Qwen3ForcedAligner.from_pretrained(base / "aligner", device="cpu", dtype="fp32")
    with Qwen3ASRModel(
        auto.AutoModelVLLM(base / "asr", backend="torch", dtype="fp32"), aligner, max_new_tokens=4
    ) as model:
        yield model, aligner


def test_qwens_interface(qwen: tuple[Qwen3ASRModel, Qwen3ForcedAligner]) -> None:
    model, aligner = qwen
    audio = (SAMPLES, 16_000)
    for name in arguments(Qwen3ASRModel.transcribe):
        require_a_result_or_an_error_that_says_why(lambda **odd: model.transcribe(**{"audio": audio, **odd}), name)
    given = {"audio": audio, "text": "hello", "language": "English"}
    for name in arguments(Qwen3ForcedAligner.align):
        require_a_result_or_an_error_that_says_why(lambda **odd: aligner.align(**{**given, **odd}), name)
    for name in arguments(Qwen3ASRModel.init_streaming_state):
        require_a_result_or_an_error_that_says_why(model.init_streaming_state, name)
    state = model.init_streaming_state()
    require_a_result_or_an_error_that_says_why(lambda **odd: model.streaming_transcribe(**odd, state=state), "pcm16k")
    for method in (model.finish_streaming_transcribe, lambda **odd: model.streaming_transcribe(SAMPLES, **odd)):
        require_a_result_or_an_error_that_says_why(method, "state")
