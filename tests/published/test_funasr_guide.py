"""FunASR's guide to its vLLM engine: its SDK, its command lines, its services and their clients."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import soundfile as sf
import websockets
from openai import OpenAI

from demos import client_python, demo_vllm, serve_vllm
from tests.engine.server.requests_of_clients import wav
from tests.pipeline import Clip
from tests.published.conftest import Served, served
from twostage_asr.engine import auto
from twostage_asr.engine.cli import main
from twostage_asr.engine.compat.funasr import AutoModelVLLM, FunASRNanoStreamingVLLM, FunASRNanoVLLM
from twostage_asr.engine.config import EngineConfig

GPUS = 1


@pytest.fixture(scope="module")
def model_id(engine_dirs: dict[str, Path]) -> str:
    return str(engine_dirs["low_frame_rate"])


@pytest.fixture(scope="module", autouse=True)
def files(here: Path, spoken: Clip) -> Path:
    for name in ("audio", "audio1", "audio2", "meeting"):
        (here / f"{name}.wav").write_bytes(wav(spoken))
    (here / "wav.scp").write_text("utt1 audio1.wav\nutt2 audio2.wav\n")
    (here / "hotword_list").write_text("张三\n北京\n")
    return here


@pytest.fixture(scope="module")
def model(model_id: str, without_vllm: None) -> Iterator[AutoModelVLLM]:
    """Section 3, universal interface."""
    model = AutoModelVLLM(
        model=model_id,
        hub="ms",
        tensor_parallel_size=GPUS,
        gpu_memory_utilization=0.8,
    )
    yield model
    model.close()


# --- 3. offline SDK


def test_universal_interface(model: AutoModelVLLM, spoken: Clip) -> None:
    results = model.generate(
        ["audio1.wav", "audio2.wav"],
        language="中文",
        hotwords=["张三", "北京"],
    )
    assert [f"[{r['key']}] {r['text']}" for r in results] == [f"[audio{i}] {spoken['text']}" for i in (1, 2)]


def test_direct_interface(model_id: str, without_vllm: None, spoken: Clip) -> None:
    engine = FunASRNanoVLLM.from_pretrained(
        model=model_id,
        tensor_parallel_size=GPUS,
    )
    results = engine.generate(
        inputs="wav.scp",
        hotwords=["开放时间"],
        language="中文",
        max_new_tokens=512,
    )
    assert [(r["key"], r["text"]) for r in results] == [("utt1", spoken["text"]), ("utt2", spoken["text"])]
    defaults = {"hotwords": None, "language": None, "itn": True, "max_new_tokens": 512, "temperature": 0.0}
    more_defaults = {"top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
    assert engine.generate(["audio1.wav"], **defaults, **more_defaults)[0]["text"] == spoken["text"]  # type: ignore[arg-type]
    engine.close()


def test_several_gpus_are_a_line_of_configuration() -> None:
    assert EngineConfig(tensor_parallel_size=4).tensor_parallel_size == 4


@pytest.mark.parametrize(
    ("command", "engine", "keys"),
    [
        ("--input audio.wav --language 中文", {}, ["audio"]),
        ("--input wav.scp --tensor-parallel-size 4 --batch-size 32", {"tensor_parallel_size": 4}, ["utt1", "utt2"]),
        ("--input audio.wav --hotwords 张三 北京 --output results.jsonl", {}, ["audio"]),
    ],
)
def test_command_line(
    model: AutoModelVLLM,
    here: Path,
    spoken: Clip,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    engine: dict[str, Any],
    keys: list[str],
) -> None:
    asked: dict[str, Any] = {}

    class Loaded(AutoModelVLLM):
        def __init__(self, model_dir: str, **options: Any) -> None:
            asked.update(options)
            self._runner = model.transcriber

        def close(self) -> None:
            """It is another's."""

    monkeypatch.setattr(demo_vllm, "AutoModelVLLM", Loaded)
    monkeypatch.setattr(demo_vllm, "HERE", here)
    monkeypatch.setattr(sys, "argv", ["demo_vllm.py", *command.split()])
    assert demo_vllm.main() == 0
    assert asked.items() >= engine.items()
    output = here / ("results.jsonl" if "--output" in command else "out/transcripts.jsonl")
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(line["key"], line["text"]) for line in lines] == [(key, spoken["text"]) for key in keys]


def test_customized_silence(model: AutoModelVLLM, spoken: Clip) -> None:
    """Section 7."""
    (result,) = model.generate(input="audio.wav", silence_schedule=[(5000, 1500), (20000, 800), (float("inf"), 300)])
    assert result["text"] == spoken["text"]
    assert model.generate(input="audio.wav", dynamic_silence=False)[0]["text"] == spoken["text"]


# --- 4. streaming SDK


def test_streaming(model_id: str, without_vllm: None, spoken: Clip) -> None:
    engine = FunASRNanoStreamingVLLM.from_pretrained(
        model=model_id,
        chunk_ms=720,
        rollback_chars=8,
    )
    growing, finals = [], []
    for result in engine.streaming_generate("audio.wav", language="中文"):
        if result["is_final"]:
            finals.append(result["text"])
        else:
            growing.append(f"[{result['audio_duration_ms']:.0f}ms] {result['fixed_text']}")
    assert finals == [spoken["text"]]
    assert [line.split("ms]")[0] for line in growing] == [f"[{720 * i}" for i in range(1, len(growing) + 1)]
    defaults = {"chunk_ms": None, "rollback_chars": None, "hotwords": None, "language": None, "itn": True}
    (*_, last) = engine.streaming_generate("audio.wav", **defaults, max_new_tokens=200, temperature=0.0)
    assert last["text"] == spoken["text"]
    engine.close()


# --- 5. offline service


@pytest.fixture(scope="module")
def offline(here: Path, vllm_model: auto.AutoModelVLLM) -> Iterator[Served]:
    command = "--port 8899 --model FunAudioLLM/Fun-ASR-Nano-2512 --gpu-memory-utilization 0.5"
    with served(lambda: main(serve_vllm.arguments("serve", command.split())), vllm_model) as found:
        yield found


def test_the_offline_service_is_started_as_asked(offline: Served) -> None:
    assert offline.address.port == 8899
    asked = {"model": "FunAudioLLM/Fun-ASR-Nano-2512", "gpu_memory_utilization": 0.5}
    assert offline.engine.items() >= asked.items()


def require_asr_answer(answer: dict[str, Any], spoken: Clip) -> None:
    assert answer["text"] == spoken["text"]
    (segment,) = answer["segments"]
    assert segment["text"] == spoken["text"] and 0 <= segment["start"] < segment["end"] <= answer["duration"]
    assert all(word.keys() == {"word", "start", "end"} for word in segment["words"]) and segment["words"]
    assert answer["processing_time"] > 0 and answer["rtf"] > 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_asr_with_curl(offline: Served, spoken: Clip) -> None:
    command = f"""
    curl -X POST http://localhost:{offline.port}/asr \\
    -F "file=@meeting.wav" -F "language=中文" -F "spk=true"
    """
    require_asr_answer(json.loads(subprocess.check_output(command, shell=True)), spoken)


def test_asr_with_requests(offline: Served, spoken: Clip) -> None:
    resp = requests.post(f"http://localhost:{offline.port}/asr",
    files={"file": open("audio.wav", "rb")},
    data={"language": "中文", "spk": "true"})  # fmt: skip
    result = resp.json()
    require_asr_answer(result, spoken)
    fields = {"language": "English", "hotwords": "", "spk": "false", "timestamp": "true"}
    answer = requests.post(f"http://localhost:{offline.port}/asr", files={"file": open("audio.wav", "rb")}, data=fields)
    assert answer.ok and answer.json()["segments"][0]["words"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_asr_with_fetch(offline: Served, spoken: Clip) -> None:
    script = f"""
    const audioBlob = new Blob([require("fs").readFileSync("audio.wav")]);
    (async () => {{
    const form = new FormData();
    form.append("file", audioBlob, "audio.wav");
    form.append("language", "中文");
    form.append("spk", "true");
    const resp = await fetch("http://localhost:{offline.port}/asr", {{ method: "POST", body: form }});
    const result = await resp.json();
    console.log(JSON.stringify(result));
    }})();
    """
    require_asr_answer(json.loads(subprocess.check_output(["node", "-e", script])), spoken)


def test_openai_sdk(offline: Served, spoken: Clip) -> None:
    client = OpenAI(base_url=f"http://localhost:{offline.port}/v1", api_key="none")
    result = client.audio.transcriptions.create(
        model="fun-asr-nano",
        file=open("audio.wav", "rb"),
        response_format="verbose_json",
    )
    assert result.text == spoken["text"]
    assert result.segments and result.duration and result.language


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_openai_with_curl(offline: Served, spoken: Clip) -> None:
    command = f"""
    curl -X POST http://localhost:{offline.port}/v1/audio/transcriptions \\
    -F "file=@audio.wav" -F "model=fun-asr-nano" -F "response_format=verbose_json"
    """
    answer = json.loads(subprocess.check_output(command, shell=True))
    assert (answer["task"], answer["text"]) == ("transcribe", spoken["text"])
    (segment,) = answer["segments"]
    assert segment.keys() >= {"id", "start", "end", "text", "words"} and segment["words"][0].keys() == {
        "word",
        "start",
        "end",
    }


@pytest.mark.parametrize("granularity", ["word", "segment"])
@pytest.mark.parametrize("response_format", ["json", "text", "verbose_json"])
def test_openai_fields(offline: Served, spoken: Clip, response_format: str, granularity: str) -> None:
    data = {
        "response_format": response_format,
        "timestamp_granularities": granularity,
        "language": "zh",
        "spk": "false",
    }
    url = f"http://localhost:{offline.port}/v1/audio/transcriptions"
    answer = requests.post(url, files={"file": open("audio.wav", "rb")}, data=data)
    assert (answer.text if response_format == "text" else answer.json()["text"]) == spoken["text"]


async def said_over(url: str, *, before: Sequence[str] = (), block: int, pause_s: float = 0.0) -> list[dict[str, Any]]:
    """What a client hears that sends audio.wav: the messages up to the one with the final sentences."""
    pcm = (sf.read("audio.wav")[0] * 32768).astype(np.int16)
    async with websockets.connect(url) as ws:
        await ws.send("START")
        answers = [json.loads(await ws.recv())]
        for command in before:
            await ws.send(command)
            answers.append(json.loads(await ws.recv()))
        for i in range(0, len(pcm), block):
            await ws.send(pcm[i : i + block].tobytes())
            await asyncio.sleep(pause_s)
        await ws.send("STOP")
        async for message in ws:
            answers.append(json.loads(message))
            if answers[-1] == {"event": "stopped"}:
                break
    return answers


def test_offline_websocket(offline: Served, spoken: Clip) -> None:
    url = f"ws://localhost:{offline.port}/ws"
    answers = asyncio.run(said_over(url, before=["LANGUAGE:中文"], block=10**9))
    assert answers[:2] == [{"event": "started"}, {"event": "language_set", "language": "中文"}]
    *_, final, stopped = answers
    assert final["is_final"] is True and final["duration_ms"] > 0 and stopped == {"event": "stopped"}
    assert [s["text"] for s in final["sentences"]] == [spoken["text"]]
    assert all(0 <= s["start"] / 1000 < s["end"] / 1000 for s in final["sentences"])


# --- 6. streaming service


@pytest.fixture(scope="module")
def realtime(here: Path, model: AutoModelVLLM) -> Iterator[Served]:
    command = "--port 10095 --language 中文 --hotword-file hotword_list --model FunAudioLLM/Fun-ASR-Nano-2512"
    with served(lambda: main(serve_vllm.arguments("serve-realtime", command.split())), model) as found:
        yield found


def test_the_streaming_service_is_started_as_asked(realtime: Served) -> None:
    settings = realtime.recognizer.settings
    assert (realtime.address.port, settings.language, settings.hotwords) == (10095, "中文", ("张三", "北京"))


@pytest.mark.parametrize(("block", "pause_s"), [(1600, 0.0), (1600, 0.05)])
def test_streaming_protocol(realtime: Served, spoken: Clip, block: int, pause_s: float) -> None:
    before = ["HOTWORDS:word1,word2", "LANGUAGE:中文"]
    answers = asyncio.run(said_over(f"ws://localhost:{realtime.port}", before=before, block=block, pause_s=pause_s))
    assert answers[0] == {"event": "started"}
    *growing, final, stopped = answers[3:]
    assert stopped == {"event": "stopped"} and final["is_final"] is True
    assert all(answer.keys() >= {"sentences", "partial"} and answer["is_final"] is False for answer in growing)
    assert [s["text"] for s in final["sentences"]] == [spoken["text"]]
    assert all(isinstance(s["start"], int) and isinstance(s["end"], int) for s in final["sentences"])


def test_python_command_line_client(
    realtime: Served, spoken: Clip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"client_python.py --server ws://localhost:{realtime.port} --file audio.wav"
    monkeypatch.setattr(sys, "argv", command.split())
    client_python.main()
    assert spoken["text"] in capsys.readouterr().out
