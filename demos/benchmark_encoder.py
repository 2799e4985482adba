"""Time stage 1's encoder alone, full size with random weights, on features held on the device.

    python demos/benchmark_encoder.py [--device cuda] [--clips 8 32 128 240] [--seconds 10]

Prints RTFx (audio seconds / wall seconds) by dtype and batch.
"""

import argparse
import time

import torch

from twostage_asr.encoders.fbank import SAMPLE_RATE, num_lfr_frames
from twostage_asr.encoders.sensevoice import SenseVoiceEncoder
from twostage_asr.engine.bench.random_checkpoint import ENCODER

REPETITIONS = 5


@torch.inference_mode()
def rtfx(encoder: SenseVoiceEncoder, num_clips: int, seconds: float, device: torch.device) -> float:
    num_frames = num_lfr_frames(round(seconds * SAMPLE_RATE))
    features = torch.randn(num_clips, num_frames, ENCODER.input_dim, device=device)
    lens = torch.full((num_clips,), num_frames)
    for repetition in range(REPETITIONS + 1):
        if repetition == 1:  # the first warms up
            _wait(device)
            started = time.perf_counter()
        encoder(features, lens)
    _wait(device)
    return REPETITIONS * num_clips * seconds / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", type=torch.device)
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 32, 128, 240])
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    print(f"{'clips':>5} {'bf16':>8} {'fp32':>8}   (RTFx, clips of {args.seconds:g} s, {args.device})")
    for num_clips in args.clips:
        figures = []
        for dtype in (torch.bfloat16, torch.float32):
            encoder = SenseVoiceEncoder(ENCODER).eval().to(args.device, dtype)
            figures.append(rtfx(encoder, num_clips, args.seconds, args.device))
        print(f"{num_clips:>5} {figures[0]:>8.0f} {figures[1]:>8.0f}")


if __name__ == "__main__":
    main()
