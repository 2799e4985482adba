"""What speakers=True costs: the speaker model alone, a list of clips, and long recordings, with and without it.

    python demos/benchmark_speakers.py MODEL --output speakers.json
    python demos/benchmark_speakers.py MODEL --random --batches 4 --windows 8 --list 4 --hours 0.01 --output small.json

Measured are, each with a warm-up before it:

    network     windows of 1.5 s a second by the number of windows in a call, and of one long call with its profile: the
                kernels that take longest, the launches, and the share of the time in which the GPU computes
    list        --list clips of 10 s in memory, without, with, without and with speakers
    recordings  one of each of --hours, without and with speakers

`--random` takes CAM++ with random weights, which cost as much as published ones. Clips and recordings are laid together
from the files of --clips.
"""

import argparse
import itertools
import json
import platform
import resource
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from twostage_asr.encoders.campplus import CAMPPlus
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.speakers.loading import load_speaker_model
from twostage_asr.engine.speakers.model import WINDOW_SAMPLES, TorchSpeakerModel

PAUSE_S = 0.5
CLIP_S = 10.0
TOP_KERNELS = 15
REPEATS = 5


def recording(clips: list[Waveform], hours: float, path: Path) -> Path:
    """A WAV file of this length: the clips one after the other, again and again."""
    left = round(hours * 3600 * SAMPLE_RATE)
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for clip in itertools.cycle(clips):
            part = np.concatenate([clip, pause])[:left]
            file.writeframes((part.clip(-1.0, 1.0) * 32767).astype("<i2").tobytes())
            left -= len(part)
            if not left:
                return path
    raise ValueError("there are no clips")


def many_clips(clips: list[Waveform], num: int) -> list[Waveform]:
    """Clips of CLIP_S, each of which begins elsewhere."""
    speech = np.concatenate(clips)
    starts = np.random.default_rng(0).integers(0, len(speech), num)
    return [np.take(speech, np.arange(start, start + round(CLIP_S * SAMPLE_RATE)), mode="wrap") for start in starts]


def random_weights(directory: Path) -> Path:
    torch.manual_seed(0)
    directory.mkdir()
    torch.save(CAMPPlus().state_dict(), directory / "campplus.pt")
    return directory


def seconds_of(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def network_alone(model: TorchSpeakerModel, device: str, batches: list[int], num_windows: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    windows = [rng.normal(0, 0.1, WINDOW_SAMPLES).astype(np.float32) for _ in range(max(num_windows, *batches))]
    rates = {}
    for batch in batches:
        model.embed(windows[:batch])
        rates[batch] = batch / min(seconds_of(lambda size=batch: model.embed(windows[:size])) for _ in range(REPEATS))
        print(f"network, {batch} windows in a call: {rates[batch]:.0f} windows/s", flush=True)
    many = windows[:num_windows]
    model.embed(many)
    rate = num_windows / min(seconds_of(lambda: model.embed(many)) for _ in range(REPEATS))
    # Windows overlap by half, so that each stands for half of its length.
    speech_rate = rate * WINDOW_SAMPLES / 2 / SAMPLE_RATE
    print(f"network, {num_windows} windows in a call: {rate:.0f} windows/s, {speech_rate:.0f} s of speech a second")
    profiled = profile_of(lambda: model.embed(many), device)
    return {"windows_per_s": rates, "many": num_windows, "many_windows_per_s": rate, "speech_s_per_s": speech_rate} | {
        "profile": profiled
    }


def profile_of(work: Callable[[], Any], device: str) -> dict[str, Any]:
    """The longest kernels (operators on a CPU), how often anything is launched, and how long the GPU computes."""
    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        seconds = seconds_of(work)
    averages = profiler.key_averages()
    kernels = [event for event in averages if not on_gpu or event.device_type == DeviceType.CUDA]

    def total_us(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    kernels.sort(key=total_us, reverse=True)
    top = [{"name": event.key[:90], "calls": event.count, "ms": total_us(event) / 1e3} for event in kernels]
    busy_s = sum(map(total_us, kernels)) / 1e6
    launches = {event.key: event.count for event in averages if event.key.startswith("cuda") and "Launch" in event.key}
    for row in top[:TOP_KERNELS]:
        print(f"  {row['ms']:9.2f} ms {row['calls']:7d} x {row['name']}")
    print(f"  {seconds * 1e3:.1f} ms in all, {busy_s * 1e3:.1f} ms of it in kernels; launches: {launches}", flush=True)
    return {
        "seconds": seconds,
        "busy_s": busy_s,
        "kernels": sum(event.count for event in kernels),
        "launches": launches,
        "top": top[:TOP_KERNELS],
    }


def job(model: AutoModelVLLM, audio: list[Any], *, speakers: bool) -> dict[str, float]:
    """Transcribe. Gives the seconds that it took, the CPU's among them, and the speakers of an input on average."""
    begun, cpu = time.perf_counter(), time.process_time()
    transcripts = model.generate(audio, speakers=speakers)
    taken = {"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu}
    for transcript in transcripts:
        if transcript.status != "ok":
            raise SystemExit(f"{transcript.key}: {transcript.error}")
    found = [len({turn.speaker for turn in transcript.turns or ()}) for transcript in transcripts]
    return taken | {"speakers": sum(found) / len(found)}


def compared(model: AutoModelVLLM, audio: list[Any], audio_s: float, name: str, repeats: int) -> dict[str, Any]:
    """The same audio without and with speakers, by turns."""
    jobs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for speakers in (False, True) * repeats:
        jobs[speakers].append(job(model, audio, speakers=speakers))
    without, with_speakers = (min(taken["seconds"] for taken in jobs[speakers]) for speakers in (False, True))
    print(
        f"{name}: {without:.2f} s without, {with_speakers:.2f} s with speakers, {with_speakers / without - 1:+.1%}; "
        f"RTFx {audio_s / without:.0f} and {audio_s / with_speakers:.0f}",
        flush=True,
    )
    return {
        "name": name,
        "audio_s": audio_s,
        "without": jobs[False],
        "with": jobs[True],
        "added": with_speakers / without - 1,
        "peak_mb_added": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3,
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory or hub id of the recogniser")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--windows", type=int, default=4096, help="of the long call to the speaker model")
    parser.add_argument("--list", type=int, default=2000, help="clips of 10 s; 0 leaves them out")
    parser.add_argument("--hours", type=float, nargs="*", default=[1.0, 3.0])
    parser.add_argument("--clips", type=Path, default=Path(__file__).parent / "micro/clips")
    parser.add_argument("--speaker-model", default="auto")
    parser.add_argument("--random", action="store_true", help="CAM++ with random weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", default="auto", help='"vllm", "torch", or "auto"')
    parser.add_argument("--output", type=Path, help="a JSON file of all figures")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    clips = [decode_audio(path) for path in sorted(args.clips.glob("*.flac"))]
    found: dict[str, Any] = {"device": args.device, "torch": torch.__version__, "python": platform.python_version()}
    if args.device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as work:
        name = random_weights(Path(work) / "campplus") if args.random else args.speaker_model
        alone = load_speaker_model(name, torch.device(args.device))
        found["network"] = network_alone(alone, args.device, args.batches, args.windows)
        del alone
        with AutoModelVLLM(args.model, device=args.device, backend=args.backend, speaker_model=name) as model:
            model.transcriber.wait_until_complete()
            listed = many_clips(clips, args.list)
            for speakers in (False, True):
                job(model, many_clips(clips, 64 if args.list >= 64 else 2), speakers=speakers)
            if listed:
                title = f"{args.list} clips of {CLIP_S:g} s"
                found["list"] = compared(model, listed, args.list * CLIP_S, title, repeats=2)
            found["recordings"] = [
                compared(
                    model,
                    [str(recording(clips, hours, Path(work) / f"{hours:g}h.wav"))],
                    hours * 3600,
                    f"a recording of {hours:g} h",
                    repeats=1,
                )
                for hours in args.hours
            ]
    if args.output is not None:
        args.output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
