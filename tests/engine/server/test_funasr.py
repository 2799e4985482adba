"""FunASR's and Zerolan's protocols, with the clients that their users have: curl, requests, fetch, websockets."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import websockets

from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import CHUNK, pcm16, plain, wav, waveform
from tests.pipeline import Clip
from tests.processes import wait_until
from twostage_asr.engine import ConfigError
from twostage_asr.engine.server.config_file import read_config_file

FETCH = """
const fs = require("fs");
const form = new FormData();
form.append("file", new Blob([fs.readFileSync(process.argv[2])]), "audio.wav");
form.append("language", "中文");
form.append("spk", "true");
fetch(process.argv[1] + "/asr", { method: "POST", body: form }).then(r => r.text()).then(t => console.log(t));
"""


@pytest.fixture(scope="module")
def clip(clips: list[Clip]) -> Clip:
    return next(clip for clip in clips if clip["key"] == "zh_41")


@pytest.fixture(scope="module")
def file(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("upload") / "audio.wav"
    path.write_bytes(wav(clip))
    return path


def curl(*arguments: str) -> Any:
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def require_asr_answer(answer: dict[str, Any], clip: Clip) -> None:
    duration = len(waveform(clip)) / 16_000
    assert answer["text"] == clip["text"]
    assert answer["duration"] == pytest.approx(duration, abs=1e-3)
    assert answer["rtf"] == pytest.approx(answer["processing_time"] / duration, abs=1e-3)
    (segment,) = answer["segments"]
    assert segment["text"] == clip["text"]
    assert 0 <= segment["start"] < segment["end"] <= duration
    assert "".join(word["word"] for word in segment["words"]) == clip["text"].rstrip("？")
    assert [word["start"] for word in segment["words"]] == sorted(word["start"] for word in segment["words"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: Running, file: Path, clip: Clip) -> None:
    answer = curl("-X", "POST", f"{server.http}/asr", "-F", f"file=@{file}", "-F", "language=zh_CN", "-F", "spk=true")
    require_asr_answer(answer, clip)
    assert (answer["segments"][0]["speaker"], answer["segments"][0]["words"][0]["speaker"]) == ("SPK0", "SPK0")
    url = f"{server.http}/v1/audio/transcriptions"
    answer = curl(url, "-F", f"file=@{file}", "-F", "model=fun-asr-nano", "-F", "response_format=verbose_json")
    assert (answer["task"], answer["text"]) == ("transcribe", clip["text"])
    assert answer["segments"][0]["words"][0]["word"] == clip["text"][0]
    description = 'json={"audio_path": "", "channels": 2};type=application/json'
    url = f"{server.http}/asr/predict"
    answer = curl("-X", "POST", url, "-F", f"audio=@{file};type=audio/wav", "-F", description)
    assert answer.keys() == {"id", "transcript"} and answer["transcript"] == clip["text"]


def test_requests(server: Running, file: Path, clip: Clip) -> None:
    with file.open("rb") as audio:
        data = {"language": "中文", "timestamp": "true"}
        answer = requests.post(f"{server.http}/asr", files={"file": audio}, data=data, timeout=60)
    require_asr_answer(answer.json(), clip)
    with file.open("rb") as audio:
        answer = requests.post(f"{server.http}/asr", files={"file": audio}, data={"timestamp": "false"}, timeout=60)
    assert "words" not in answer.json()["segments"][0]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_fetch(server: Running, file: Path, clip: Clip) -> None:
    done = subprocess.run(
        ["node", "-e", FETCH, server.http, str(file)], capture_output=True, text=True, timeout=60, check=True
    )
    require_asr_answer(json.loads(done.stdout), clip)


def test_stream_predict_sends_text_while_it_is_written(server: Running, file: Path, clip: Clip) -> None:
    parts = {"audio": ("a.wav", file.read_bytes(), "audio/wav"), "json": (None, '{"channels": 1}', "application/json")}
    answer = requests.post(f"{server.http}/asr/stream-predict", files=parts, stream=True, timeout=60)
    lines = [json.loads(line) for line in answer.iter_lines()]
    assert len(lines) > 3 and len({line["id"] for line in lines}) == 1
    assert [line["is_final"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert all(lines[-1]["transcript"].startswith(line["transcript"]) for line in lines)
    assert lines[-1]["transcript"] == clip["text"]


def test_predict_takes_raw_samples_as_described(server: Running, clip: Clip) -> None:
    description = '{"media_type": "raw", "sample_rate": 16000, "channels": 1}'
    parts = {"audio": ("a.raw", pcm16(clip)), "json": (None, description, "application/json")}
    assert requests.post(f"{server.http}/asr/predict", files=parts, timeout=60).json()["transcript"] == clip["text"]
    parts["audio"] = ("a.raw", pcm16(clip)[:-1])
    assert requests.post(f"{server.http}/asr/predict", files=parts, timeout=60).status_code == 400


async def converse(url: str, pcm: bytes, chunk_bytes: int, *, language: str = "zh-Hans-CN") -> list[dict[str, Any]]:
    """FunASR's client: everything that the server says to one recording."""
    async with websockets.connect(url) as socket:
        await socket.send("START")
        said = [json.loads(await socket.recv())]
        await socket.send(f"LANGUAGE:{language}")
        said.append(json.loads(await socket.recv()))
        await socket.send("HOTWORDS:北京，上海")
        said.append(json.loads(await socket.recv()))
        for start in range(0, len(pcm), chunk_bytes):
            await socket.send(pcm[start : start + chunk_bytes])
        await socket.send("STOP")
        while said[-1] != {"event": "stopped"}:
            said.append(json.loads(await socket.recv()))
    return said


@pytest.mark.parametrize("path", ["/ws", "/"])
def test_websocket_answers_in_order_with_milliseconds(server: Running, clip: Clip, path: str) -> None:
    pcm = pcm16(clip)
    said = asyncio.run(converse(server.ws + path, pcm, 2 * CHUNK))
    assert said[:3] == [
        {"event": "started"},
        {"event": "language_set", "language": "zh-Hans-CN"},
        {"event": "hotwords_set", "hotwords": ["北京", "上海"]},
    ]
    *growing, final, stopped = said[3:]
    assert stopped == {"event": "stopped"}
    assert final["is_final"] is True and not any(message["is_final"] for message in growing)
    (sentence,) = final["sentences"]
    assert sentence["text"] == clip["text"]
    assert 0 <= sentence["start"] < sentence["end"] <= len(pcm) / 32
    assert final["duration_ms"] == len(pcm) // 32
    assert (path == "/") == any(message["partial"] for message in growing)


def test_a_recording_in_one_message_and_another_after_it(server: Running, clips: list[Clip]) -> None:
    async def two() -> None:
        async with websockets.connect(f"{server.ws}/ws") as socket:
            for clip in plain(clips)[:2]:
                await socket.send("START")
                assert json.loads(await socket.recv()) == {"event": "started"}
                await socket.send(pcm16(clip))
                await socket.send("STOP")
                assert json.loads(await socket.recv())["sentences"][0]["text"] == clip["text"]
                assert json.loads(await socket.recv()) == {"event": "stopped"}

    asyncio.run(two())


@pytest.mark.parametrize("path", ["/ws", "/"])
def test_commands_that_are_odd_do_not_end_a_session(server: Running, clips: list[Clip], path: str) -> None:
    clip = plain(clips)[0]
    pcm = pcm16(clip)
    pieces = [pcm[first : first + 1601] for first in range(0, len(pcm), 1601)]  # that end inside of a sample
    said_and_answers: list[tuple[str, str | None]] = [
        ("STOP", "error"),  # nothing has begun
        ("START\n", "started"),
        ("PING", "pong"),
        ("LANGUAGE:Klingon", "error"),
        ("CONFIGURE", "error"),
        ("HOTWORDS:", "hotwords_set"),
    ]

    async def talk() -> list[str]:
        async with websockets.connect(server.ws + path) as socket:
            await socket.send(b"before anything has begun")
            assert "send START first" in json.loads(await socket.recv())["error"]
            for command, answer in said_and_answers:
                await socket.send(command)
                assert json.loads(await socket.recv())["event"] == answer
            texts = []
            for _ in range(2):
                for piece in pieces:
                    await socket.send(piece)
                await socket.send(" STOP ")
                while not (said := json.loads(await socket.recv())).get("is_final"):
                    pass
                texts.append(" ".join(sentence["text"] for sentence in said["sentences"]))
                assert json.loads(await socket.recv()) == {"event": "stopped"}
                await socket.send("STOP")  # once more
                assert json.loads(await socket.recv()) == {"event": "stopped"}
                await socket.send(pcm[:320])  # what a microphone sends after it
                await socket.send("START")
                assert json.loads(await socket.recv()) == {"event": "started"}
            return texts

    assert asyncio.run(talk()) == [clip["text"]] * 2


def test_200_interleaved_live_sessions_each_hear_their_own(server: Running, clips: list[Clip]) -> None:
    """Every session says another sentence than its neighbours; all of them speak at once."""
    choice = plain(clips)

    async def one(place: int) -> str:
        clip = choice[place % len(choice)]
        said = await converse(server.ws, pcm16(clip), (2 + place % 7) * CHUNK, language=clip["language"] or "auto")
        final = next(message for message in said if message.get("is_final"))
        return " ".join(sentence["text"] for sentence in final["sentences"])

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one(place) for place in range(200)))

    heard = asyncio.run(all_of_them())
    assert heard == [choice[place % len(choice)]["text"] for place in range(200)]
    wait_until(lambda: not server.recognizer.num_sessions, "sessions go on whose clients have gone")


CONFIG = """
ASR:
  id: "Qwen/Qwen3-ASR-1.7B-vllm"
  host: "0.0.0.0"
  port: 11001
  config:
    Qwen/Qwen3-ASR-1.7B-vllm:
      model_path: "Qwen/Qwen3-ASR-1.7B"
      gpu_memory_utilization: 0.7
      max_inference_batch_size: 128
      max_new_tokens: 4096
      forced_aligner: null
      forced_aligner_device_map: "cuda:0"
      forced_aligner_dtype: "bfloat16"
TTS:
  id: "something else"
"""


def test_config_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    entry = read_config_file(path)
    assert (entry.host, entry.port, entry.model.model_path) == ("0.0.0.0", 11001, "Qwen/Qwen3-ASR-1.7B")
    assert (entry.model.max_inference_batch_size, entry.model.max_new_tokens) == (128, 4096)
    for wrong in (
        CONFIG.replace("gpu_memory", "gpu_memry"),
        CONFIG.replace("ASR:", "ARS:"),
        "- [",
        'ASR: {"id": 1}',
        "day: 2026-13-45",
    ):
        path.write_text(wrong)
        with pytest.raises(ConfigError):
            read_config_file(path)
    path.write_text(CONFIG.replace('id: "Qwen/Qwen3-ASR-1.7B-vllm"', 'id: "other"'))
    with pytest.raises(ConfigError, match="other"):
        read_config_file(path)
