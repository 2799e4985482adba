"""The micro checkpoint on two devices is the micro checkpoint on one."""

from pathlib import Path

import pytest

from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM, ConfigError


def test_two_devices_write_what_one_writes_in_the_same_order(
    engine_dirs: dict[str, Path], torch_models: dict[str, AutoModelVLLM], clips: list[Clip]
) -> None:
    inputs = [*[clip["source"] for clip in clips] * 2, "nowhere.wav"]
    one = torch_models["low_frame_rate"].generate(inputs, batch_size=4)
    options = {"dtype": "fp32", "encoder_dtype": "fp32"}
    with AutoModelVLLM(engine_dirs["low_frame_rate"], devices=["cpu", "cpu"], backend="torch", **options) as model:
        two = model.generate(inputs, batch_size=4)
        assert [(each.key, each.text, each.status, each.error) for each in two] == [
            (each.key, each.text, each.status, each.error) for each in one
        ]
        assert [len(each.words or ()) for each in two] == [len(each.words or ()) for each in one]
        with pytest.raises(ConfigError, match="lists of inputs only"):
            model.transcriber  # noqa: B018
