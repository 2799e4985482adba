"""Load on a running server: latencies, errors, wrong texts, audio per second.

    python demos/load_test.py --server http://localhost:8899 --concurrency 1 8 32 128           # requests
    python demos/load_test.py --server ws://localhost:8899 --concurrency 64 --seconds 300       # realtime sessions
    python demos/load_test.py --server http://localhost:8899 --rate 50                          # requests a second

Every clip is first transcribed alone; under load the same text must come. `outcomes` counts all that was sent, `busy`
the answers 429 and 503. Rates and latencies are of what ends between the warm-up and the end of --seconds: clients
begin one after another during the warm-up, so that they do not walk in step. Latency is from the first byte to the
text; of a live session, `first` is from the start of speech (as it is sent) to the first partial text, and `final` from
STOP to the final text. `slowest_ms` counts the warm-up in: it shows what stands still when a new size of
batch comes. /health is asked ten times a second beside it all. With --processes the clients are spread over
several, for servers that answer faster than one can ask. With --hostile, a share of them sends what hostile_clients.py
holds, and the others must not notice.
"""

import argparse
import asyncio
import io
import itertools
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import websockets
from hostile_clients import HostileClient
from kept_connections import Connections

from twostage_asr.engine.audio.decode import SAMPLE_RATE, decode_audio

HEALTH_INTERVAL_S = 0.1
MICRO_CLIPS = Path(__file__).parent / "micro" / "clips" / "manifest.jsonl"
BOUNDARY = "load-test-boundary"


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

    begins_at: float = 0.0  # time.perf_counter(), the same clock for all processes
    ends_at: float = float("inf")
    outcomes: Counter[str] = field(default_factory=Counter)  # ok, busy, wrong, and errors by name
    latencies: dict[str, list[float]] = field(
        default_factory=lambda: {"all": [], "first": [], "final": [], "health": []}
    )
    num_texts: int = 0  # in time
    audio_s: float = 0.0  # of these
    examples: dict[str, str] = field(default_factory=dict)
    slowest_s: float = 0.0  # of everything, the warm-up included
    memory: list[tuple[float, float]] = field(default_factory=list)  # time, resident MiB of the server

    @property
    def counts_now(self) -> bool:
        return self.begins_at <= time.perf_counter() <= self.ends_at

    def add(self, outcome: str, example: str = "") -> None:
        self.outcomes[outcome] += 1
        self.examples.setdefault(outcome, example)

    def time(self, name: str, started: float) -> None:
        """Something has taken from then until now."""
        seconds = time.perf_counter() - started
        if name == "all":
            self.slowest_s = max(self.slowest_s, seconds)
        if self.counts_now:
            self.latencies[name].append(seconds)

    def join(self, other: "Tally") -> None:
        """Count in what another process has seen."""
        self.outcomes += other.outcomes
        for name, seconds in other.latencies.items():
            self.latencies[name] += seconds
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.num_texts += other.num_texts
        self.audio_s += other.audio_s
        self.examples = other.examples | self.examples
        self.memory += other.memory


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

    def __init__(self, args: argparse.Namespace) -> None:
        self._connections = Connections(args.server, args.api_key)

    async def once(self, clip: Clip, tally: Tally) -> str | None:
        started = time.perf_counter()
        field = f'Content-Disposition: form-data; name="file"; filename="{clip.name}.wav"\r\nContent-Type: audio/wav'
        body = f"--{BOUNDARY}\r\n{field}\r\n\r\n".encode() + clip.wav + f"\r\n--{BOUNDARY}--\r\n".encode()
        headers = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n"
        answer = await self._connections.ask("POST /v1/audio/transcriptions", headers, body)
        if answer.status in (429, 503):
            tally.add("busy", answer.body.decode())
            await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
            return None
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}: {answer.body.decode()}")
        tally.time("all", started)
        text: str = json.loads(answer.body)["text"]
        return text


class RealtimeLoad:
    """One WebSocket a clip: START, the clip at --speed times real time, STOP."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._server, self._speed, self._chunk = args.server, args.speed, int(args.chunk_s * SAMPLE_RATE) * 2
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
        started = time.perf_counter()
        listening = asyncio.create_task(self._listen(socket, started, tally))
        await socket.send("START")
        for number, first in enumerate(range(0, len(clip.pcm), self._chunk), start=1):
            await socket.send(clip.pcm[first : first + self._chunk])
            due = started + number * self._chunk / 2 / SAMPLE_RATE / self._speed
            await asyncio.sleep(due - time.perf_counter())
        stopped = time.perf_counter()
        await socket.send("STOP")
        text = await listening
        tally.time("final", stopped)
        tally.time("all", started)
        return text

    async def _listen(self, socket: websockets.ClientConnection, started: float, tally: Tally) -> str:
        has_begun = False
        async for message in socket:
            answer = json.loads(message)
            if answer.get("is_final"):
                return " ".join(sentence["text"] for sentence in answer["sentences"])
            if answer.get("partial") and not has_begun:
                has_begun = True
                tally.time("first", started)
        raise RuntimeError("the server closed the session before its final text")


Load = HttpLoad | RealtimeLoad


def load_of(args: argparse.Namespace) -> Load:
    return RealtimeLoad(args) if args.server.startswith("ws") else HttpLoad(args)


async def work(load: Load, clip: Clip, tally: Tally) -> None:
    """One clip, and what came of it."""
    try:
        text = await load.once(clip, tally)
    except (OSError, EOFError, RuntimeError, websockets.WebSocketException) as error:
        tally.add(type(error).__name__, str(error))
        return
    if text is None:
        return
    tally.add("ok" if text == clip.text else "wrong", f"{clip.name}: {text!r}, alone {clip.text!r}")
    if tally.counts_now:
        tally.num_texts += 1
        tally.audio_s += clip.seconds


async def watch_health(args: argparse.Namespace, tally: Tally) -> None:
    connections = Connections(args.server, None)
    while True:
        started = time.perf_counter()
        answer = await connections.ask("GET /health")
        if answer.status != 200:
            raise RuntimeError(f"/health says {answer.status}")
        tally.time("health", started)
        await asyncio.sleep(HEALTH_INTERVAL_S)


async def watch_memory(pid: int, tally: Tally) -> None:
    """Resident MiB of a process, once a second."""
    while True:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        tally.memory.append((time.perf_counter(), pages * 4096 / 2**20))
        await asyncio.sleep(1)


async def alone(args: argparse.Namespace, clips: list[Clip]) -> None:
    """Find out the text of each clip."""
    load = load_of(args)
    for clip in clips:
        clip.text = await load.once(clip, Tally()) or ""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does of a level of load."""

    args: argparse.Namespace
    clips: list[Clip]
    number: int
    clients: range  # of all clients' numbers; or of all arrivals' where there is a rate; none: it only watches
    num_clients: int
    tally: Tally

    def run(self) -> Tally:
        return asyncio.run(self._run())

    async def _run(self) -> Tally:
        args, watchers = self.args, []
        if self.number == 0:
            watchers.append(asyncio.create_task(watch_health(args, self.tally)))
            if args.pid:
                watchers.append(asyncio.create_task(watch_memory(args.pid, self.tally)))
        load = load_of(args)
        if not self.clients:
            await asyncio.sleep(self.tally.ends_at - time.perf_counter())
        await asyncio.gather(*(self._client(load, client) for client in self.clients))
        for watcher in watchers:
            if watcher.done():  # it has failed
                await watcher
            watcher.cancel()
        return self.tally

    async def _client(self, load: Load, client: int) -> None:
        """One clip at its time if there is a rate; else one after another."""
        args, tally = self.args, self.tally
        if client < round(args.hostile * self.num_clients):
            await self._hostile_client(client)
            return
        clips = itertools.islice(itertools.cycle(self.clips), client % len(self.clips), None)
        if args.rate:
            await asyncio.sleep(tally.begins_at - args.warm_up_s + client / args.rate - time.perf_counter())
            await work(load, next(clips), tally)
            return
        await asyncio.sleep(tally.begins_at - args.warm_up_s * (1 - client / self.num_clients) - time.perf_counter())
        while time.perf_counter() < tally.ends_at:
            await work(load, next(clips), tally)

    async def _hostile_client(self, client: int) -> None:
        hostile = HostileClient(self.args.server, self.clips[0].wav, client)
        while time.perf_counter() < self.tally.ends_at:
            try:
                self.tally.add(await hostile.once())
            except (OSError, RuntimeError, TimeoutError, websockets.WebSocketException) as error:
                self.tally.add(f"hostile: {type(error).__name__}", str(error))


def run_level(args: argparse.Namespace, clips: list[Clip], concurrency: int) -> dict[str, Any]:
    """One level of load; returns its report."""
    num = round(args.rate * (args.warm_up_s + args.seconds)) if args.rate else concurrency
    num_processes = min(args.processes, num)
    # Clients at work would delay what watches /health, so that it has a process of its own if there are several.
    clients = [range(number, num, num_processes) for number in range(num_processes)]
    if num_processes > 1:
        clients.insert(0, range(0))
    begins_at = time.perf_counter() + args.warm_up_s
    shares = [
        Share(args, clips, number, own, num, Tally(begins_at, begins_at + args.seconds))
        for number, own in enumerate(clients)
    ]
    if num_processes == 1:
        return report(args, concurrency, shares[0].run())
    with multiprocessing.get_context("fork").Pool(len(shares)) as pool:
        first, *others = pool.map(Share.run, shares, chunksize=1)
    for other in others:
        first.join(other)
    return report(args, concurrency, first)


def report(args: argparse.Namespace, concurrency: int, tally: Tally) -> dict[str, Any]:
    """Numbers for people and, as JSON, for machines."""
    result: dict[str, Any] = {"rate": args.rate} if args.rate else {"concurrency": concurrency}
    result |= {
        "seconds": args.seconds,
        "outcomes": dict(tally.outcomes),
        "rtfx": round(tally.audio_s / args.seconds, 2),
        "per_second": round(tally.num_texts / args.seconds, 2),
        "slowest_ms": round(tally.slowest_s * 1000, 1),
        "examples": {name: text for name, text in tally.examples.items() if name != "ok"},
    }
    for name, seconds in tally.latencies.items():
        if seconds:
            p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1000
            result[f"{name}_ms"] = {"p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1)}
    if len(tally.memory) > 1:
        times, mib = np.array(tally.memory).T
        half = len(times) // 2  # the first half warms up
        slope = np.polyfit(times[half:] - times[half], mib[half:], 1)[0] * 3600 if half > 1 else 0.0
        result["memory_mib"] = {"first": round(mib[0]), "last": round(mib[-1]), "slope_per_hour": round(slope, 1)}
    return result


def reports(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of each level, as it ends."""
    clips = read_clips(args.input)
    asyncio.run(alone(args, clips))
    for concurrency in args.concurrency[:1] if args.rate else args.concurrency:
        yield run_level(args, clips, concurrency)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:8899", help="http://... or, for live sessions, ws://...")
    parser.add_argument("--input", type=Path, default=MICRO_CLIPS, help="manifest, folder or file (default: bundled)")
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--concurrency", type=int, nargs="+", default=[8], help="clients, each with one clip after another"
    )
    load.add_argument("--rate", type=float, help="clips that arrive a second, however many are under way")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each level, after its warm-up")
    parser.add_argument("--warm-up-s", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=1, help="that the clients are spread over")
    parser.add_argument("--speed", type=float, default=1.0, help="of live audio, times real time")
    parser.add_argument("--chunk-s", type=float, default=0.1, help="of live audio in one message")
    parser.add_argument("--hostile", type=float, default=0.0, metavar="SHARE", help="of the clients, that break things")
    parser.add_argument("--pid", type=int, help="of the server, on this machine: its memory")
    parser.add_argument("--api-key")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all levels, as a list")
    args = parser.parse_args()
    found = []
    for one in reports(args):
        found.append(one)
        print(json.dumps(one, ensure_ascii=False), flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
