"""Which devices a name stands for, what each process sees of them, and what is refused."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from twostage_asr.engine import ConfigError, auto
from twostage_asr.engine.cli import main
from twostage_asr.engine.cli.command import add_devices_option, add_model_options, model_options
from twostage_asr.engine.config import EngineConfig
from twostage_asr.engine.decoder.mps import VISIBLE_GPUS
from twostage_asr.engine.devices.names import device_names, environment_of, present_devices


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        ("auto", "auto"),
        ([0, 1], ("cuda:0", "cuda:1")),
        (("cuda:1", torch.device("cuda:0")), ("cuda:1", "cuda:0")),
        (["cpu", "cpu"], ("cpu", "cpu")),
        (["npu:0", "npu:2"], ("npu:0", "npu:2")),
    ],
)
def test_names(devices: Any, names: object) -> None:
    assert device_names(devices) == names
    assert EngineConfig.of({"devices": devices}).devices == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": []}, "devices must be 'auto'"),
        ({"devices": "0,1"}, "devices must be 'auto'"),
        ({"devices": ["gpu"]}, "devices must be 'auto'"),
        ({"devices": [True]}, "devices must be 'auto'"),
        ({"devices": [0, 0]}, "each GPU once"),
        ({"devices": ["cpu", "cuda:0"]}, "of one kind"),
        ({"devices": 2}, "devices must be"),
        ({"devices": [0, 1], "device": "cuda"}, "exclude each other"),
        ({"devices": "auto", "tensor_parallel_size": 2}, "tensor_parallel_size=2"),
        ({"devices": [0], "vllm": {"data_parallel_size": 2}}, "data_parallel_size"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        auto.AutoModelVLLM("nowhere", **options)


def test_a_process_sees_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE_GPUS, raising=False)
    assert environment_of("cuda:1") == {VISIBLE_GPUS: "1"}
    assert environment_of("cpu") == {}
    monkeypatch.setenv(VISIBLE_GPUS, "2,GPU-ab")
    assert [environment_of(f"cuda:{number}")[VISIBLE_GPUS] for number in (0, 1)] == ["2", "GPU-ab"]


def test_auto_is_every_gpu_and_others_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert present_devices("auto") == present_devices(("cuda:0", "cuda:1")) == ("cuda:0", "cuda:1")
    assert present_devices(("cpu", "cpu")) == ("cpu", "cpu")
    with pytest.raises(ConfigError, match=r"cuda:2 cannot be used, this process sees 2 GPUs"):
        present_devices(("cuda:1", "cuda:2"))


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_auto_on_a_machine_with_one_device_needs_no_further_process(
    engine_dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, num_gpus: int
) -> None:
    loaded = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(auto, "_load", lambda _engine, _aligner, config: loaded.append(config))
    auto.AutoModelVLLM(engine_dirs["low_frame_rate"], devices="auto")
    assert loaded == [EngineConfig()]


@pytest.mark.parametrize(
    ("given", "found"),
    [([], {}), (["--devices", "auto"], {"devices": "auto"}), (["--devices", "0,cuda:1"], {"devices": [0, "cuda:1"]})],
)
def test_the_command_line_names_devices(given: list[str], found: dict[str, object]) -> None:
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    add_devices_option(parser)
    options = model_options(parser.parse_args(["--model", "m", *given]))
    assert {name: value for name, value in options.items() if name == "devices"} == found


def test_devices_are_not_for_a_ray_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["batch", "a.wav", "--output", str(tmp_path / "out"), "--model", "m", "--engine", "ray"]
    with pytest.raises(SystemExit, match="2"):
        main([*job, "--devices", "auto"])
    assert "--workers" in capsys.readouterr().err
