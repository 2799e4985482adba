"""Shared checkpoints, clips and engines. vLLM starts once per session; FunASR never shares its process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets.asyncio.client
import websockets.sync.client
from hypothesis import HealthCheck, settings

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from tests.paths import CHECKPOINTS, CLIPS
from tests.pipeline import Clip, read_manifest
from tests.variants import Variant, write_variant
from twostage_asr.convert.export import ensure_converted
from twostage_asr.engine import AutoModelVLLM

# On a busy machine any example may take long. One run of the tests decides, so it does not depend on chance either:
# tests/fuzz.py is what looks for further examples.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# On such a machine a server of the tests may take longer to answer a client than these libraries wait by themselves.
for connect in (websockets.asyncio.client.connect.__init__, websockets.sync.client.connect):
    connect.__kwdefaults__.update(open_timeout=300, ping_timeout=300)

# Files that start processes or engines of their own take longest and begin first: two processes run the tests, and
# neither shall wait for the other's last file.
SLOW_FILES = (
    *("tests/engine/decoder/test_process_decoder.py", "tests/demos/test_demo_vllm.py", "tests/engine/test_bench.py"),
    *("tests/engine/families/test_parity.py", "tests/engine/cli/test_verification.py", "tests/demos/test_smoke_run.py"),
    *("tests/engine/server/test_faults.py", "tests/engine/test_funasr_parity.py", "tests/demos/test_demo_streaming.py"),
    *("tests/encoders/test_funasr_parity.py", "tests/engine/vad/test_fsmn.py", "tests/engine/hub/test_resolve.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.fixture(scope="session", autouse=True)
def full_rate_checkpoint() -> None:
    """The same weights as a model whose LLM reads every adaptor frame."""
    write_variant(CHECKPOINTS["low_frame_rate"], CHECKPOINTS["full_rate"], Variant(full_rate=True))


@pytest.fixture(scope="session")
def engine_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both micro checkpoints, converted."""
    base = tmp_path_factory.mktemp("converted")
    return {name: ensure_converted(path, output=base / name, progress=False) for name, path in CHECKPOINTS.items()}


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    """The test clips: source (absolute path), key, text, language, hotwords, itn, words."""
    return read_manifest(CLIPS)


@pytest.fixture(scope="session")
def vllm_model(engine_dirs: dict[str, Path]) -> Iterator[AutoModelVLLM]:
    """The low-frame-rate checkpoint on real vLLM, fp32: the one vLLM engine of the test session."""
    with AutoModelVLLM(engine_dirs["low_frame_rate"], backend="vllm", dtype="fp32", encoder_dtype="fp32") as model:
        yield model


@pytest.fixture(scope="session")
def torch_models(engine_dirs: dict[str, Path]) -> Iterator[dict[str, AutoModelVLLM]]:
    """Both checkpoints on transformers, fp32."""
    models = {
        name: AutoModelVLLM(path, backend="torch", dtype="fp32", encoder_dtype="fp32")
        for name, path in engine_dirs.items()
    }
    yield models
    for model in models.values():
        model.close()
