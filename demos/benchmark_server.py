"""What the server makes of a model, beside the offline pipeline on the same clips.

    python demos/benchmark_server.py --random fun_asr_nano --json server.json     # a published size, random weights
    python demos/benchmark_server.py --random qwen3_asr_1_7b --clip-seconds 30 --concurrency 256 384 --sessions
    python demos/benchmark_server.py --model demos/micro/checkpoint --concurrency 1 8 --sessions 1 8 --front-ends 1

One process loads the model, transcribes WAVs from memory as generate() does, and then serves it as `twostage-asr serve`
does, front ends included; load_test.py, in processes of its own, sends /v1/audio/transcriptions those WAVs, and lets
live sessions speak bundled clips. `share` is that of the offline pipeline's rate in the same run; /health and
slowest_ms are load_test.py's.

Random weights never end a text: each answer then has --tokens, by default TOKENS_PER_SECOND of the clip, or LIVE_TOKENS
in a live session, and is not checked, because random texts contradict random CTC heads. Each token of a draft
agrees with the probability --agreement (twostage_asr.engine.bench.agreeing). In bfloat16 a batch of another size may
write another text, which load_test.py counts as wrong.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twostage_asr.engine.console import quiet_libraries, spare_loaded_objects

quiet_libraries()  # before torch and vLLM are imported

import soundfile

from twostage_asr.engine import AutoModelVLLM, Transcript, TranscriptionService, transcribe_options
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.bench.agreeing import AGREEMENT, with_agreeing_drafts
from twostage_asr.engine.bench.command import WRITERS
from twostage_asr.engine.bench.load import LANGUAGE, TOKENS_PER_SECOND, noise
from twostage_asr.engine.bench.machine import hardware, versions
from twostage_asr.engine.bench.random_tower_families import write_qwen3_forced_aligner
from twostage_asr.engine.cores import usable_cores
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.run_options import TranscribeOptions
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.front_ends import FrontEnds, Setup, number_of_front_ends
from twostage_asr.engine.server.process import Address, bind, server_of
from twostage_asr.engine.server.recognizer import CHUNK_MS, Recognizer
from twostage_asr.engine.server.settings import ServerSettings
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.vad import load_vad

DEMOS = Path(__file__).parent
NUM_FILES = 8  # that the clients send in turn
LIVE_CLIPS = ("en_volume", "zh_hours", "zh_weather_noise")
LIVE_TOKENS = 16
LIVE_WARM_UP_S = 4.0  # as long as the clips are


def bound(options: TranscribeOptions, num_tokens: int) -> TranscribeOptions:
    params = DecodeParams(max_new_tokens=num_tokens, ignore_eos=True)
    return replace(options, params=params, check=False)


def offline(transcriber: Transcriber, inputs: Sequence[object], options: TranscribeOptions) -> dict[str, float]:
    """One pass of the offline pipeline."""
    started = time.perf_counter()
    transcripts = [transcript for _, transcript in transcriber.run(expand_inputs(inputs), options)]
    wall_s = time.perf_counter() - started
    failed = [transcript.error for transcript in transcripts if transcript.status == "error"]
    assert not failed, failed[0]
    return {"clips": len(inputs), "wall_s": round(wall_s, 3), "per_second": round(len(inputs) / wall_s, 1)}


@contextmanager
def bound_answers(num_tokens: int | None, *, timestamps: bool = False) -> Iterator[None]:
    """Give each answer of the service this number of tokens, whatever front ends ask for; None: until it ends.

    With `timestamps`, it gets word times too.
    """
    submit = TranscriptionService.submit

    def submit_bound(
        service: TranscriptionService, waveform: Waveform, options: TranscribeOptions, **more: Any
    ) -> Future[Transcript]:
        options = replace(options, timestamps=options.timestamps or timestamps)
        return submit(service, waveform, options if num_tokens is None else bound(options, num_tokens), **more)

    with patch.object(TranscriptionService, "submit", submit_bound):
        yield


@contextmanager
def serving(transcriber: Transcriber, settings: ServerSettings, num_front_ends: int) -> Iterator[int]:
    """The port of a server whose front ends are processes of their own, or that is a thread if there are none."""
    (taken,) = bind(Address(port=0))
    port = taken.getsockname()[1]
    if num_front_ends:
        setup = Setup(
            settings=settings,
            address=Address(),
            chunk_ms=CHUNK_MS,
            log_level="warning",
            num_front_ends=num_front_ends,
        )
        front_ends = FrontEnds(setup, [taken])
        thread = threading.Thread(target=front_ends.serve, args=(transcriber,), daemon=True)
        thread.start()
        while front_ends.num_ready < num_front_ends:
            assert thread.is_alive(), "the server does not start"
            time.sleep(0.01)
        yield port
        front_ends.leave()
        thread.join()
        return
    recognizer = Recognizer.of(transcriber, settings, vad=load_vad())
    server = server_of(create_app(recognizer), recognizer, Address())
    thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join()
    recognizer.close()


def load(
    server: str, clips: Path, clients: Sequence[int], seconds: float, num_processes: int, *more: str
) -> Iterator[dict[str, Any]]:
    """What load_test.py reports of each number of clients, if there are any."""
    if not clients:
        return
    command = [sys.executable, str(DEMOS / "load_test.py"), "--server", server, "--input", str(clips)]
    command += ["--seconds", str(seconds), "--processes", str(num_processes), *more]
    with subprocess.Popen(
        [*command, "--concurrency", *map(str, clients)], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        yield from map(json.loads, running.stdout)
    assert running.returncode == 0, "load_test.py has failed"


def write_clips(folder: Path, clip_s: float) -> tuple[Path, Path]:
    """What requests send, a folder of WAVs, and what live sessions say, a manifest."""
    wavs, manifest = folder / "wavs", folder / "live.jsonl"
    wavs.mkdir()
    for number in range(NUM_FILES):
        soundfile.write(wavs / f"{number:02}.wav", noise(number, int(clip_s * SAMPLE_RATE)), SAMPLE_RATE, "PCM_16")
    sources = (DEMOS / "micro" / "clips" / f"{name}.flac" for name in LIVE_CLIPS)
    manifest.write_text("".join(json.dumps({"source": str(source)}) + "\n" for source in sources), encoding="utf-8")
    return wavs, manifest


@dataclass(slots=True)
class Benchmark:
    """What has been measured of one loaded model."""

    transcriber: Transcriber
    args: argparse.Namespace
    wavs: Path
    live: Path
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int | None:
        """Of each answer; None: until it ends."""
        if self.args.tokens is None and self.args.random:
            return max(round(TOKENS_PER_SECOND * self.args.clip_seconds), 1)
        tokens: int | None = self.args.tokens
        return tokens

    @property
    def language(self) -> str | None:
        return LANGUAGE if self.args.random else None

    def pipeline(self) -> float:
        """The offline pipeline, after a pass over a quarter of the clips; returns the clips of a second."""
        files = [path.read_bytes() for path in sorted(self.wavs.iterdir())]
        options = transcribe_options(language=self.language, timestamps=self.args.timestamps)
        if self.num_tokens is not None:
            options = bound(options, self.num_tokens)
        num_clips = self.args.clips
        for count in (max(num_clips // 4, 1), num_clips, num_clips):
            contents = list(itertools.islice(itertools.cycle(files), count))
            self.say("offline", offline(self.transcriber, contents, options))
        return float(self.result["offline"][-1]["per_second"])

    def serve(self, offline_per_second: float) -> None:
        """Requests, and then live sessions."""
        args = self.args
        most = max([256, *args.concurrency, *args.sessions])
        settings = ServerSettings(language=self.language, max_requests=2 * most, max_sessions=2 * most)
        how = (args.seconds, args.client_processes)
        num_front_ends = number_of_front_ends(args.front_ends, self.transcriber.device.type)
        with serving(self.transcriber, settings, num_front_ends) as port:
            http, live = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
            rate = ("--rate", str(args.rate)) if args.rate else ()
            with bound_answers(self.num_tokens, timestamps=args.timestamps):
                for found in load(http, self.wavs, args.concurrency, *how, *rate):
                    share = {"front_ends": num_front_ends, "share": round(found["per_second"] / offline_per_second, 3)}
                    self.say("http", found | share)
            with bound_answers(LIVE_TOKENS if args.random else None):
                for found in load(live, self.live, args.sessions, *how, "--warm-up-s", str(LIVE_WARM_UP_S)):
                    self.say("realtime", found)

    def say(self, what: str, found: dict[str, Any]) -> None:
        self.result.setdefault(what, []).append(found)
        print(json.dumps({what: found}, ensure_ascii=False), flush=True)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint directory or hub id")
    source.add_argument(
        "--random", nargs="?", const="fun_asr_nano", choices=WRITERS, help="weights of a published size"
    )
    parser.add_argument("--clips", type=int, default=1024, help="of the offline pipeline (default %(default)s)")
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="(default %(default)s)")
    parser.add_argument("--tokens", type=int, metavar="N", help="of every answer, exactly")
    parser.add_argument("--agreement", type=float, default=AGREEMENT, help="of random answers with their drafts")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 32, 128], help="requests at a time")
    parser.add_argument("--rate", type=float, help="requests that arrive a second, in place of --concurrency")
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 16, 64, 128], help="live ones at a time")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of these (default %(default)s)")
    parser.add_argument("--front-ends", type=int, metavar="N", help="as `twostage-asr serve` has them by default")
    parser.add_argument(
        "--client-processes", type=int, metavar="N", default=max(usable_cores() // 4, 1), help="of the clients"
    )
    parser.add_argument("--decoder-processes", type=int, metavar="N", help="see `twostage-asr serve --help`")
    parser.add_argument("--timestamps", action="store_true", help="word times for each answer, whoever asks")
    parser.add_argument("--forced-aligner", metavar="MODEL", help="that times the words; random: of the published size")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def measure(transcriber: Transcriber, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The offline pipeline, requests and live sessions of a model that is there in full."""
    if args.random:
        transcriber = with_agreeing_drafts(transcriber, args.agreement)
    benchmark = Benchmark(transcriber, args, *write_clips(folder, args.clip_seconds))
    benchmark.say("machine", hardware(transcriber.device) | versions(transcriber.device))
    per_second = benchmark.pipeline()
    spare_loaded_objects()
    benchmark.serve(per_second)
    return benchmark.result


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.random:
            WRITERS[args.random](folder / "random")
        aligner = args.forced_aligner
        if aligner == "random":
            aligner = folder / "aligner"
            write_qwen3_forced_aligner(aligner)
        with AutoModelVLLM(
            args.model or folder / "random", decoder_processes=args.decoder_processes, forced_aligner=aligner
        ) as model:
            model.transcriber.wait_until_complete()  # a server that has just started is another question
            found = measure(model.transcriber, args, folder)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
