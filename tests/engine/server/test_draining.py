"""What SIGTERM does: nothing new is taken, what is under way gets its end, and the deadline holds."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests
import websockets

from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import CHUNK, pcm16, plain, wav
from tests.pipeline import Clip
from tests.processes import wait_until
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.acoustic.base import EncodedBatch
from twostage_asr.engine.server.process import ended_by_hang_up

PATH = "/v1/audio/transcriptions"


def transcribe(server: Running, clip: Clip) -> str:
    answer = requests.post(f"{server.http}{PATH}", files={"file": ("a.wav", wav(clip))}, timeout=60)
    text: str = answer.json()["text"]
    return text


def test_everything_under_way_is_finished(
    start: Callable[..., Any], vllm_model: AutoModelVLLM, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is encoded until the server drains, so that all of it is under way then."""
    clip, acoustic, is_draining = plain(clips)[0], vllm_model.transcriber.acoustic, threading.Event()
    encode = acoustic.encode

    def encode_late(*waveforms: Any, **options: Any) -> EncodedBatch:
        assert is_draining.wait(60)
        return encode(*waveforms, **options)

    async def speak(leave: Callable[[], None]) -> tuple[list[dict[str, Any]], int]:
        said: list[dict[str, Any]] = [{}]
        async with websockets.connect(server.ws) as ws:
            await ws.send("START")
            pcm = pcm16(clip)
            for first in range(0, len(pcm), 2 * CHUNK):
                await ws.send(pcm[first : first + 2 * CHUNK])
            await ws.send("PING")  # is answered after all of that
            while said[-1].get("event") != "pong":
                said.append(json.loads(await asyncio.wait_for(ws.recv(), 60)))
            await asyncio.to_thread(leave)
            try:
                while True:
                    said.append(json.loads(await asyncio.wait_for(ws.recv(), 60)))
            except websockets.ConnectionClosed as closed:
                assert closed.rcvd is not None
                return said, closed.rcvd.code

    def leave() -> None:
        monkeypatch.setattr(acoustic, "encode", encode_late)
        texts.extend(callers.submit(transcribe, server, clip) for _ in range(8))
        wait_until(lambda: server.recognizer.num_requests == 8, "the requests are not seen")
        server.server.handle_exit(signal.SIGTERM, None)
        wait_until(server.recognizer.is_draining.is_set, "there is no drain")
        is_draining.set()

    texts: list[Future[str]] = []
    with start(drain_s=60.0) as server, ThreadPoolExecutor(8) as callers:
        said, code = asyncio.run(speak(leave))
        assert {text.result(60) for text in texts} == {clip["text"]}
    assert code == 1012
    assert said[-1] == {"event": "stopped"}
    assert [sentence["text"] for sentence in said[-2]["sentences"]] == [clip["text"]]


def stalled_upload(server: Running) -> socket.socket:
    """A request that is under way for as long as nobody ends it."""
    upload = socket.create_connection(("127.0.0.1", server.port))
    kind = b"Content-Type: multipart/form-data; boundary=b\r\n"
    upload.sendall(b"POST /asr HTTP/1.1\r\nHost: localhost\r\n" + kind + b"Content-Length: 100\r\n\r\n")
    wait_until(lambda: server.recognizer.num_requests, "the upload is not seen")
    return upload


def test_nothing_new_is_taken(start: Callable[..., Any], clips: list[Clip]) -> None:
    def ready() -> tuple[int, str]:
        answer = requests.get(f"{server.http}/ready", timeout=60)
        return answer.status_code, answer.json()["status"]

    with start(drain_s=600.0) as server:
        with stalled_upload(server):
            server.server.handle_exit(signal.SIGTERM, None)
            wait_until(lambda: ready() != (200, "ok"), "/ready does not say so")
            assert ready() == (503, "shutting down")
            answer = requests.post(f"{server.http}{PATH}", files={"file": ("a.wav", wav(plain(clips)[0]))}, timeout=60)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        wait_until(lambda: not server.server.servers[0].sockets, "the server does not end with the last request")


def test_the_deadline_holds(start: Callable[..., Any]) -> None:
    with start(drain_s=0.5) as server, stalled_upload(server):
        server.server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: not server.server.servers[0].sockets, "the deadline does not hold")


def test_a_terminal_that_closes_ends_the_server_as_sigterm_does() -> None:
    got = list[int]()
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGHUP, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
        with ended_by_hang_up():
            os.kill(os.getpid(), signal.SIGHUP)
            wait_until(lambda: bool(got), "SIGTERM")
        assert got == [signal.SIGTERM]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with ended_by_hang_up():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and len(got) == 1
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
