"""What speakers=True costs: the same recordings with and without it.

    python demos/benchmark_speakers.py MODEL --hours 1 5 10 --random

Each figure of --hours is the length of one recording, which is laid together from --clips. `--random` takes CAM++ with
random weights, which cost as much as published ones. Prints the seconds of both jobs, the share that speakers add, the
speed (RTFx) of the whole job and of the speaker model alone, and the growth of resident memory at its peak.
"""

import argparse
import itertools
import resource
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
import torch

from twostage_asr.encoders.campplus import CAMPPlus
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.speakers.diarize import embedded
from twostage_asr.engine.speakers.loading import load_speaker_model

_PAUSE_S = 0.5
_CLIP_S = 15.0  # of those that the speaker model gets when it is measured alone


def recording(clips: list[Waveform], hours: float, path: Path) -> Path:
    """A WAV file of this length: the clips one after the other, again and again."""
    left = round(hours * 3600 * SAMPLE_RATE)
    pause = np.zeros(round(_PAUSE_S * SAMPLE_RATE), np.float32)
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


def random_weights(directory: Path) -> Path:
    torch.manual_seed(0)
    directory.mkdir()
    torch.save(CAMPPlus().state_dict(), directory / "campplus.pt")
    return directory


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def timed(model: AutoModelVLLM, path: Path, *, speakers: bool) -> tuple[float, int]:
    """Seconds, and the number of speakers found."""
    begun = time.perf_counter()
    (transcript,) = model.generate([str(path)], speakers=speakers)
    if transcript.status != "ok":
        raise SystemExit(f"{path}: {transcript.error}")
    return time.perf_counter() - begun, len({turn.speaker for turn in transcript.turns or ()})


def model_alone(name: str | Path, device: str, minutes: float) -> float:
    """The RTFx of the speaker model for this much speech, after a warm-up."""
    model = load_speaker_model(name, torch.device(device))
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, round(_CLIP_S * SAMPLE_RATE)).astype(np.float32) for _ in range(round(minutes * 4))]
    embedded(model, clips[:12])
    begun = time.perf_counter()
    embedded(model, clips)
    return len(clips) * _CLIP_S / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory or hub id of the recogniser")
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 5.0, 10.0])
    parser.add_argument("--clips", type=Path, default=Path(__file__).parent / "micro/clips")
    parser.add_argument("--speaker-model", default="auto")
    parser.add_argument("--random", action="store_true", help="CAM++ with random weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", default="auto", help='"vllm", "torch", or "auto"')
    args = parser.parse_args()
    clips = [decode_audio(path) for path in sorted(args.clips.glob("*.flac"))]
    with tempfile.TemporaryDirectory() as work:
        name = random_weights(Path(work) / "campplus") if args.random else args.speaker_model
        alone = model_alone(name, args.device, min(60.0, 60 * max(args.hours)))
        print(f"the speaker model alone, on {args.device}: RTFx {alone:.0f}", flush=True)
        with AutoModelVLLM(args.model, device=args.device, backend=args.backend, speaker_model=name) as model:
            warm = recording(clips, min(0.05, min(args.hours)), Path(work) / "warm.wav")
            for speakers in (False, True):
                timed(model, warm, speakers=speakers)
            for hours in args.hours:
                path = recording(clips, hours, Path(work) / "recording.wav")
                without, _ = timed(model, path, speakers=False)
                before = peak_mb()
                seconds, found = timed(model, path, speakers=True)
                growth = peak_mb() - before
                print(
                    f"{hours:g} h: {without:.1f} s without, {seconds:.1f} s with speakers, {seconds / without - 1:+.1%}"
                    f"; RTFx {hours * 3600 / seconds:.0f}; {found} speakers; memory +{growth:.0f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
