"""What the server makes of a model, beside the offline pipeline on the same clips.

    python demos/benchmark_server.py --random --json server.json        # the published sizes, random weights
    python demos/benchmark_server.py --model demos/micro/checkpoint --concurrency 1 8 --sessions 1 8

One process loads the model, transcribes WAVs of 10 s from memory as generate() does, and then serves it; load_test.py,
in processes of its own, sends /v1/audio/transcriptions those WAVs, and lets live sessions speak bundled clips.

Random weights never end a text: each answer then takes TOKENS_PER_SECOND of the clip, or LIVE_TOKENS of a live session,
partial or final, and is not checked, because random texts contradict random CTC heads. In bfloat16 a batch of another
size may write another text, which load_test.py counts as wrong.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twostage_asr.engine.console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

import soundfile

from twostage_asr.engine import AutoModelVLLM, transcribe_options
from twostage_asr.engine.audio.decode import SAMPLE_RATE
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.bench.load import LANGUAGE, TOKENS_PER_SECOND, noise
from twostage_asr.engine.bench.machine import hardware, versions
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.run_options import TranscribeOptions
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.process import Address, server_of
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.server.settings import ServerSettings
from twostage_asr.engine.vad import load_vad

DEMOS = Path(__file__).parent
CLIP_S = 10.0
NUM_FILES = 8  # that the clients send in turn
LIVE_CLIPS = ("en_volume", "zh_hours", "zh_weather_noise")
LIVE_TOKENS = 16
LIVE_WARM_UP_S = 4.0  # as long as the clips are


class BoundRecognizer(Recognizer):
    """A Recognizer whose answers all have the same number of tokens, and are not checked."""

    num_tokens: int

    def options(self, **asked: Any) -> TranscribeOptions:
        return bound(super().options(**asked), self.num_tokens)


def bound(options: TranscribeOptions, num_tokens: int) -> TranscribeOptions:
    params = DecodeParams(max_new_tokens=num_tokens, ignore_eos=True)
    return replace(options, params=params, check=False)


def offline(model: AutoModelVLLM, files: Sequence[bytes], options: TranscribeOptions) -> dict[str, float]:
    """One pass of the offline pipeline."""
    started = time.perf_counter()
    transcripts = [transcript for _, transcript in model.transcriber.run(expand_inputs(files), options)]
    wall_s = time.perf_counter() - started
    failed = [transcript.error for transcript in transcripts if transcript.status == "error"]
    assert not failed, failed[0]
    return {"clips": len(files), "wall_s": round(wall_s, 3), "per_second": round(len(files) / wall_s, 1)}


@contextmanager
def serving(recognizer: Recognizer) -> Iterator[int]:
    """The port of a server that runs in a thread."""
    server = server_of(create_app(recognizer), recognizer, Address(port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        recognizer.close()


def load(server: str, clips: Path, clients: Sequence[int], seconds: float, *more: str) -> Iterator[dict[str, Any]]:
    """What load_test.py reports of each number of clients."""
    command = [sys.executable, str(DEMOS / "load_test.py"), "--server", server, "--input", str(clips)]
    command += ["--seconds", str(seconds), "--processes", str(min(8, os.cpu_count() or 1)), *more]
    with subprocess.Popen(
        [*command, "--concurrency", *map(str, clients)], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        yield from map(json.loads, running.stdout)
    assert running.returncode == 0, "load_test.py has failed"


def write_clips(folder: Path) -> tuple[Path, Path]:
    """What requests send, a folder of WAVs, and what live sessions say, a manifest."""
    wavs, manifest = folder / "wavs", folder / "live.jsonl"
    wavs.mkdir()
    for number in range(NUM_FILES):
        soundfile.write(wavs / f"{number:02}.wav", noise(number, int(CLIP_S * SAMPLE_RATE)), SAMPLE_RATE, "PCM_16")
    sources = (DEMOS / "micro" / "clips" / f"{name}.flac" for name in LIVE_CLIPS)
    manifest.write_text("".join(json.dumps({"source": str(source)}) + "\n" for source in sources), encoding="utf-8")
    return wavs, manifest


@dataclass(slots=True)
class Benchmark:
    """One loaded model, and what has been measured of it."""

    model: AutoModelVLLM
    wavs: Path
    live: Path
    is_random: bool
    result: dict[str, Any] = field(default_factory=dict)

    def pipeline(self, num_clips: int) -> None:
        """The offline pipeline, after a pass over a quarter of the clips."""
        files = [path.read_bytes() for path in sorted(self.wavs.iterdir())]
        options = transcribe_options(language=LANGUAGE if self.is_random else None, timestamps=False)
        if self.is_random:
            options = bound(options, round(TOKENS_PER_SECOND * CLIP_S))
        for count in (num_clips // 4, num_clips, num_clips):
            contents = list(itertools.islice(itertools.cycle(files), count))
            self.say("offline", offline(self.model, contents, options))

    def requests(self, clients: Sequence[int], seconds: float) -> None:
        with serving(self._recognizer(round(TOKENS_PER_SECOND * CLIP_S))) as port:
            for found in load(f"http://127.0.0.1:{port}", self.wavs, clients, seconds):
                self.say("http", found)

    def sessions(self, clients: Sequence[int], seconds: float) -> None:
        with serving(self._recognizer(LIVE_TOKENS)) as port:
            for found in load(
                f"ws://127.0.0.1:{port}", self.live, clients, seconds, "--warm-up-s", str(LIVE_WARM_UP_S)
            ):
                self.say("realtime", found)

    def say(self, what: str, found: dict[str, Any]) -> None:
        self.result.setdefault(what, []).append(found)
        print(json.dumps({what: found}, ensure_ascii=False), flush=True)

    def _recognizer(self, num_tokens: int) -> Recognizer:
        if not self.is_random:
            return Recognizer(self.model.transcriber, ServerSettings(), vad=load_vad())
        recognizer = BoundRecognizer(self.model.transcriber, ServerSettings(language=LANGUAGE), vad=load_vad())
        recognizer.num_tokens = num_tokens
        return recognizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint directory or hub id")
    source.add_argument("--random", action="store_true")
    parser.add_argument("--clips", type=int, default=1024, help="of the offline pipeline")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 32, 128], help="requests at a time")
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 16, 64, 128], help="live ones at a time")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of these")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.random:
            write_checkpoint(folder / "random")
        with AutoModelVLLM(args.model or folder / "random") as model:
            benchmark = Benchmark(model, *write_clips(folder), is_random=args.random)
            device = model.transcriber.device
            benchmark.say("machine", hardware(device) | versions(device))
            benchmark.pipeline(args.clips)
            if args.concurrency:
                benchmark.requests(args.concurrency, args.seconds)
            if args.sessions:
                benchmark.sessions(args.sessions, args.seconds)
    if args.json:
        args.json.write_text(json.dumps(benchmark.result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
