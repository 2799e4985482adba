"""The time from the start of a process to its first text, with cold and with warm caches.

    python demos/first_text.py --json first.json                                    # the bundled micro checkpoint
    python demos/first_text.py --model FunAudioLLM/Fun-ASR-Nano-2512 --input one.wav --complete

`transcribe` is timed to the line with its text, `serve` to its first answer, asked ten times a second from the start
on. `timeline` loads a model from Python and prints when each part was there; --complete waits for all of it, which
leaves the caches of vLLM and of stage 1 filled. Cold means that nothing has been compiled: all caches of vLLM, torch,
Triton and CUDA are in a new folder. The runs after the first use what it has left there. The files themselves stay in
the system's memory in all runs, and the model is converted before the first. Options that are not listed are passed on.
"""

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

MICRO = Path(__file__).parent / "micro"
CACHES = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
POLL_S = 0.1
LIMIT_S = 900.0
PROGRAM = (sys.executable, "-m", "twostage_asr")
BOUNDARY = "first-text"
HERE = "--here"  # the first argument of a process that show_timeline() runs in


def time_transcribe(options: Sequence[str], clip: Path, environment: dict[str, str]) -> float:
    """Seconds to the first line of output, which is the text."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [*PROGRAM, "transcribe", str(clip), "--output-dir", folder, *options]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            line = running.stdout.readline()
            seconds = time.perf_counter() - started
            running.communicate()
    assert line.startswith(f"{clip.stem}: "), f"no text, but {line!r}"
    return seconds


def time_server(options: Sequence[str], clip: Path, environment: dict[str, str]) -> float:
    """Seconds to the first answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = time.perf_counter()
    command = [*PROGRAM, "serve", "--port", str(port), "--log-level", "warning", *options]
    with subprocess.Popen(command, env=environment) as running:
        try:
            while (answer := ask(port, clip)) is None:
                assert running.poll() is None, "the server has ended"
                assert time.perf_counter() < started + LIMIT_S, "the server does not answer"
                time.sleep(POLL_S)
            seconds = time.perf_counter() - started
        finally:
            running.terminate()
    assert "text" in json.loads(answer)
    return seconds


def time_timeline(options: Sequence[str], clip: Path, environment: dict[str, str]) -> float:
    """Seconds to the first text of a Python program, which prints what it waited for."""
    command = [sys.executable, __file__, HERE, str(time.time()), str(clip), *options]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", flush=True)
    (text,) = (line for line in done.stdout.splitlines() if "first text:" in line)
    return float(text.split()[0])


class Lines(logging.Handler):
    """Prints what happens, behind the seconds since the program was started."""

    def __init__(self, started: float) -> None:
        super().__init__()
        self._started = started

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.getMessage(), record.created)

    def say(self, what: str, moment: float | None = None) -> None:
        print(f"{(moment or time.time()) - self._started:8.2f} s  {what}", flush=True)


def show_timeline(started: float, clip: Path, options: Sequence[str]) -> None:
    """Transcribe a clip in this process, which was started at time.time() `started`."""
    from twostage_asr.engine.console import quiet_libraries

    lines = Lines(started)
    say = lines.say
    say("Python has started")
    quiet_libraries()
    for name, level in (("twostage_asr", logging.DEBUG), ("twostage_asr.engine.loader", logging.NOTSET)):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("twostage_asr").addHandler(lines)
    logging.getLogger("twostage_asr").propagate = False
    import torch  # noqa: F401 - it takes longest

    say("torch is imported")
    from twostage_asr.engine import AutoModelVLLM, transcribe_options
    from twostage_asr.engine.audio.inputs import expand_inputs
    from twostage_asr.engine.cli.command import add_model_options, model_options
    from twostage_asr.engine.timeline import Timeline

    say("all is imported")
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    parser.add_argument("--complete", action="store_true")
    args = parser.parse_args(options)
    with AutoModelVLLM(**model_options(args)) as model:
        say("the model is ready")
        timeline, offset = Timeline(), time.time() - time.perf_counter()
        for _, transcript in model.transcriber.run(expand_inputs([clip]), transcribe_options(), timeline):
            say(f"first text: {transcript.text or transcript.error}")
        for span in timeline.spans:
            say(f"{span.stage}, for {span.end - span.start:.2f} s", span.start + offset)
        if args.complete:
            model.transcriber.wait_until_complete()
            say("all of the model is there")


def ask(port: int, clip: Path) -> bytes | None:
    """The server's answer; None as long as nobody listens, or it is not ready."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{clip.name}"\r\n\r\n'
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/audio/transcriptions",
        data=head.encode() + clip.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            content: bytes = response.read()
            return content
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
    except OSError:
        pass
    return None


WAYS: dict[str, Callable[[Sequence[str], Path, dict[str, str]], float]] = {
    "transcribe": time_transcribe,
    "serve": time_server,
    "timeline": time_timeline,
}


def measure(args: argparse.Namespace, more: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Each run, as it ends."""
    options = ["--model", args.model, *more]  # others are options of both commands
    subprocess.run([*PROGRAM, "convert", "--model", args.model], check=True, stdout=subprocess.DEVNULL)
    for way in args.ways:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {name: f"{folder}/{name.lower()}" for name in CACHES}
            for number in range(1 + args.warm):
                own = ["--complete"] if args.complete and way == "timeline" else []
                seconds = round(WAYS[way]([*options, *own], args.input, environment), 2)
                yield {"way": way, "caches": "warm" if number else "cold", "first_text_s": seconds}


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Ours, and those that are passed on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MICRO / "checkpoint"))
    parser.add_argument("--input", type=Path, default=MICRO / "clips" / "en_volume.flac")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--warm", type=int, default=2, metavar="N", help="runs with warm caches (default 2)")
    parser.add_argument("--complete", action="store_true", help="timeline: until vLLM is there and all is compiled")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_known_args(arguments)


def main() -> None:
    args, more = parse_arguments()
    found = []
    for run in measure(args, more):
        found.append(run)
        print(json.dumps(run), flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == [HERE]:
        show_timeline(float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        main()
