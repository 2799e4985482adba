"""Load on a running server: latencies, errors, wrong texts, audio per second.

    python demos/load_test.py --server http://localhost:8899 --concurrency 64 --seconds 300     # requests
    python demos/load_test.py --server ws://localhost:8899 --concurrency 64 --seconds 300       # realtime sessions
    python demos/load_test.py --server http://localhost:8899 --rate 50                          # requests a second

Every clip is first transcribed alone; under load the same text must come. `busy` counts answers 429 and 503. Latency is
from the first byte to the text; of a live session, `first` is from the start of speech (as it is sent) to the first
partial text, and `final` from STOP to the final text. /health is asked ten times a second beside it all.
"""

import argparse
import asyncio
import io
import itertools
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
import websockets

from twostage_asr.engine.audio import SAMPLE_RATE, decode_audio

HEALTH_INTERVAL_S = 0.1
MICRO_CLIPS = Path(__file__).parent / "micro" / "clips" / "manifest.jsonl"


@dataclass(slots=True)
class Clip:
    """What one client sends, and what it must get."""

    name: str
    wav: bytes
    pcm: bytes
    seconds: float
    text: str = ""


@dataclass(slots=True)
class Tally:
    """What has happened so far."""

    outcomes: Counter[str] = field(default_factory=Counter)  # ok, busy, wrong, and errors by name
    latencies: dict[str, list[float]] = field(
        default_factory=lambda: {"all": [], "first": [], "final": [], "health": []}
    )
    audio_s: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: str, example: str = "") -> None:
        self.outcomes[outcome] += 1
        self.examples.setdefault(outcome, example)


def read_clips(source: Path) -> list[Clip]:
    """A manifest (jsonl with "source"), an audio file, or a folder of them."""
    if source.suffix == ".jsonl":
        lines = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        paths = [source.parent / line["source"] for line in lines]
    else:
        paths = sorted(source.iterdir()) if source.is_dir() else [source]
    clips = []
    for path in dict.fromkeys(paths):
        samples = np.clip(decode_audio(path) * 32768, -32768, 32767).astype("<i2")
        file = io.BytesIO()
        soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        clips.append(Clip(path.stem, file.getvalue(), samples.tobytes(), len(samples) / SAMPLE_RATE))
    return clips


class HttpLoad:
    """One POST /v1/audio/transcriptions a clip."""

    def __init__(self, server: str, args: argparse.Namespace) -> None:
        headers = {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}
        self._client = httpx.AsyncClient(
            base_url=server, headers=headers, timeout=120, limits=httpx.Limits(max_connections=None)
        )

    async def once(self, clip: Clip, tally: Tally) -> str | None:
        started = time.perf_counter()
        files = {"file": (f"{clip.name}.wav", clip.wav, "audio/wav")}
        answer = await self._client.post("/v1/audio/transcriptions", files=files, data={"response_format": "json"})
        if answer.status_code in (429, 503):
            tally.add("busy", answer.text)
            await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
            return None
        answer.raise_for_status()
        tally.latencies["all"].append(time.perf_counter() - started)
        text: str = answer.json()["text"]
        return text


class RealtimeLoad:
    """One WebSocket a clip: START, the clip at --speed times real time, STOP."""

    def __init__(self, server: str, args: argparse.Namespace) -> None:
        self._server, self._speed, self._chunk = server, args.speed, int(args.chunk_s * SAMPLE_RATE) * 2
        self._headers = {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}

    async def once(self, clip: Clip, tally: Tally) -> str | None:
        try:
            async with websockets.connect(self._server, additional_headers=self._headers, open_timeout=60) as socket:
                return await self._talk(socket, clip, tally)
        except websockets.InvalidStatus as refused:
            if refused.response.status_code not in (429, 503):
                raise
            tally.add("busy", str(refused))
            await asyncio.sleep(1)
            return None

    async def _talk(self, socket: websockets.ClientConnection, clip: Clip, tally: Tally) -> str:
        loop = asyncio.get_running_loop()
        started = loop.time()
        listening = asyncio.create_task(self._listen(socket, started, tally))
        await socket.send("START")
        for number, first in enumerate(range(0, len(clip.pcm), self._chunk), start=1):
            await socket.send(clip.pcm[first : first + self._chunk])
            await asyncio.sleep(started + number * self._chunk / 2 / SAMPLE_RATE / self._speed - loop.time())
        stopped = loop.time()
        await socket.send("STOP")
        text = await listening
        tally.latencies["final"].append(loop.time() - stopped)
        tally.latencies["all"].append(loop.time() - started)
        return text

    async def _listen(self, socket: websockets.ClientConnection, started: float, tally: Tally) -> str:
        loop, has_begun = asyncio.get_running_loop(), False
        async for message in socket:
            answer = json.loads(message)
            if answer.get("is_final"):
                return " ".join(sentence["text"] for sentence in answer["sentences"])
            if answer.get("partial") and not has_begun:
                has_begun = True
                tally.latencies["first"].append(loop.time() - started)
        raise RuntimeError("the server closed the session before its final text")


async def work(load: HttpLoad | RealtimeLoad, clip: Clip, tally: Tally) -> None:
    """One clip, and what came of it."""
    try:
        text = await load.once(clip, tally)
    except (httpx.HTTPError, OSError, RuntimeError, websockets.WebSocketException, TimeoutError) as error:
        tally.add(type(error).__name__, str(error))
        return
    if text is not None:
        tally.audio_s += clip.seconds
        tally.add("ok" if text == clip.text else "wrong", f"{clip.name}: {text!r}, alone {clip.text!r}")


async def watch_health(server: str, tally: Tally) -> None:
    async with httpx.AsyncClient(base_url=server, timeout=30) as client:
        while True:
            started = time.perf_counter()
            (await client.get("/health")).raise_for_status()
            tally.latencies["health"].append(time.perf_counter() - started)
            await asyncio.sleep(HEALTH_INTERVAL_S)


async def watch_memory(pid: int, samples: list[tuple[float, float]]) -> None:
    """Resident MiB of a process, once a second."""
    while True:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        samples.append((time.perf_counter(), pages * 4096 / 2**20))
        await asyncio.sleep(1)


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole test; returns its report."""
    load = (RealtimeLoad if args.server.startswith("ws") else HttpLoad)(args.server, args)
    clips, tally, memory = read_clips(args.input), Tally(), []
    for clip in clips:
        clip.text = await load.once(clip, Tally()) or ""
    http = args.server.replace("ws", "http", 1) if args.server.startswith("ws") else args.server
    watchers = [asyncio.create_task(watch_health(http, tally))]
    if args.pid:
        watchers.append(asyncio.create_task(watch_memory(args.pid, memory)))
    started = time.perf_counter()
    endless = itertools.cycle(clips)
    if args.rate:
        await at_a_rate(load, endless, tally, args)
    else:
        await asyncio.gather(*(one_after_another(load, endless, tally, args) for _ in range(args.concurrency)))
    wall_s = time.perf_counter() - started
    for watcher in watchers:
        watcher.cancel()
    return report(tally, memory, wall_s)


async def one_after_another(
    load: HttpLoad | RealtimeLoad, clips: "itertools.cycle[Clip]", tally: Tally, args: argparse.Namespace
) -> None:
    ends_at = time.perf_counter() + args.seconds
    while time.perf_counter() < ends_at:
        await work(load, next(clips), tally)


async def at_a_rate(
    load: HttpLoad | RealtimeLoad, clips: "itertools.cycle[Clip]", tally: Tally, args: argparse.Namespace
) -> None:
    started, running = time.perf_counter(), []
    for number in range(round(args.rate * args.seconds)):
        await asyncio.sleep(started + number / args.rate - time.perf_counter())
        running.append(asyncio.create_task(work(load, next(clips), tally)))
    await asyncio.gather(*running)


def report(tally: Tally, memory: list[tuple[float, float]], wall_s: float) -> dict[str, Any]:
    """Numbers for people and, as JSON, for machines."""
    result: dict[str, Any] = {
        "wall_s": round(wall_s, 1),
        "outcomes": dict(tally.outcomes),
        "rtfx": round(tally.audio_s / wall_s, 2),
        "per_second": round(tally.outcomes["ok"] / wall_s, 2),
        "examples": {name: text for name, text in tally.examples.items() if name != "ok"},
    }
    for name, seconds in tally.latencies.items():
        if seconds:
            p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1000
            result[f"{name}_ms"] = {"p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1)}
    if len(memory) > 1:
        times, mib = np.array(memory).T
        half = len(times) // 2  # the first half warms up
        slope = np.polyfit(times[half:] - times[half], mib[half:], 1)[0] * 3600 if half > 1 else 0.0
        result["memory_mib"] = {"first": round(mib[0]), "last": round(mib[-1]), "slope_per_hour": round(slope, 1)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:8899", help="http://... or, for live sessions, ws://...")
    parser.add_argument("--input", type=Path, default=MICRO_CLIPS, help="manifest, folder or file (default: bundled)")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--concurrency", type=int, default=8, help="clients, each with one clip after another")
    load.add_argument("--rate", type=float, help="clips that arrive a second, however many are under way")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--speed", type=float, default=1.0, help="of live audio, times real time")
    parser.add_argument("--chunk-s", type=float, default=0.1, help="of live audio in one message")
    parser.add_argument("--pid", type=int, help="of the server, on this machine: its memory")
    parser.add_argument("--api-key")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    result = asyncio.run(run(args))
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
