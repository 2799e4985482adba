"""FunASR's arguments that the engine has other names for, or no use."""

from pathlib import Path
from typing import Any

import pytest

from twostage_asr.engine import ConfigError, FunASRNanoVLLM, auto
from twostage_asr.engine.compat import funasr
from twostage_asr.engine.config import EngineConfig


@pytest.mark.parametrize("name", ["AutoModelVLLM", "FunASRNanoVLLM", "FunASRNanoStreamingVLLM"])
@pytest.mark.parametrize(
    ("options", "vllm"),
    [
        ({"enforce_eager": False}, {}),
        ({"enforce_eager": True}, {"enforce_eager": True}),
        ({"enforce_eager": True, "vllm": {"max_num_seqs": 8}}, {"enforce_eager": True, "max_num_seqs": 8}),
    ],
)
def test_enforce_eager_goes_to_vllm(
    engine_dirs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    vllm: dict[str, Any],
) -> None:
    seen: list[EngineConfig] = []

    def load(_engine_dir: Path, config: EngineConfig) -> None:
        seen.append(config)
        raise ConfigError("seen")

    monkeypatch.setattr(auto, "load_transcriber", load)
    with pytest.raises(ConfigError, match="seen"):
        getattr(funasr, name)(str(engine_dirs["low_frame_rate"]), **options)
    assert [config.vllm for config in seen] == [vllm]


def test_top_k_is_off(torch_models: dict[str, auto.AutoModelVLLM]) -> None:
    model = FunASRNanoVLLM.__new__(FunASRNanoVLLM)
    model._runner = torch_models["low_frame_rate"].transcriber
    assert model.generate([], top_k=-1) == []
    with pytest.raises(ConfigError, match="top_k must be -1, which is off, got 5; top_p chooses"):
        model.generate([], top_k=5)


def test_one_name_for_the_inputs_is_enough(torch_models: dict[str, auto.AutoModelVLLM]) -> None:
    with pytest.raises(ConfigError, match="two names of one argument"):
        torch_models["low_frame_rate"].generate([], input=[])
