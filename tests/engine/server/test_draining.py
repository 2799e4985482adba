"""What SIGTERM does: nothing new is taken, what is under way gets its end, and the deadline holds."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
import websockets

from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import CHUNK, pcm16, plain, wait_until, wav
from tests.pipeline import Clip
from twostage_asr.engine.server.process import ended_by_hang_up

PATH = "/v1/audio/transcriptions"


def transcribe(server: Running, clip: Clip) -> str:
    answer = requests.post(f"{server.http}{PATH}", files={"file": ("a.wav", wav(clip))}, timeout=60)
    text: str = answer.json()["text"]
    return text


def test_everything_under_way_is_finished(start: Callable[..., Any], clips: list[Clip]) -> None:
    clip = plain(clips)[0]
    with start(drain_s=20.0) as server:

        async def speak() -> tuple[list[dict[str, Any]], int]:
            said: list[dict[str, Any]] = []
            async with websockets.connect(server.ws) as ws:
                await ws.send("START")
                pcm = pcm16(clip)
                for first in range(0, len(pcm), 2 * CHUNK):
                    await ws.send(pcm[first : first + 2 * CHUNK])
                await asyncio.sleep(0.3)
                server.server.handle_exit(signal.SIGTERM, None)
                try:
                    while True:
                        said.append(json.loads(await asyncio.wait_for(ws.recv(), 20)))
                except websockets.ConnectionClosed as closed:
                    assert closed.rcvd is not None
                    return said, closed.rcvd.code

        with ThreadPoolExecutor(8) as callers:
            texts = [callers.submit(transcribe, server, clip) for _ in range(8)]
            wait_until(lambda: server.recognizer.num_requests, "no request is seen")
            said, code = asyncio.run(speak())
            assert {text.result(30) for text in texts} == {clip["text"]}
        assert code == 1012
        assert said[-1] == {"event": "stopped"}
        assert [sentence["text"] for sentence in said[-2]["sentences"]] == [clip["text"]]


def test_nothing_new_is_taken_and_the_deadline_holds(start: Callable[..., Any], clips: list[Clip]) -> None:
    with start(drain_s=1.0) as server:
        upload = socket.create_connection(("127.0.0.1", server.port))
        kind = b"Content-Type: multipart/form-data; boundary=b\r\n"
        upload.sendall(b"POST /asr HTTP/1.1\r\nHost: localhost\r\n" + kind + b"Content-Length: 100\r\n\r\n")
        wait_until(lambda: server.recognizer.num_requests, "the upload is not seen")
        server.server.handle_exit(signal.SIGTERM, None)
        deadline = time.monotonic() + 5
        while (ready := requests.get(f"{server.http}/ready", timeout=5)).status_code == 200:
            assert time.monotonic() < deadline
        assert (ready.status_code, ready.json()["status"]) == (503, "shutting down")
        answer = requests.post(f"{server.http}{PATH}", files={"file": ("a.wav", wav(plain(clips)[0]))}, timeout=5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        while server.server.servers[0].sockets:
            assert time.monotonic() < deadline, "the deadline does not hold"
            time.sleep(0.05)
        upload.close()


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
