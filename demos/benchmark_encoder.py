"""Time stage 1's encoder alone, full size with random weights, on features held on the device.

    python demos/benchmark_encoder.py [--device cuda] [--clips 8 32 128 240] [--seconds 10]

Prints RTFx (audio seconds / wall seconds) of a batch that is met again: compiled as the engine runs it on a GPU, and as
it is written. Then what the compiled encoder takes for a shape that it meets for the first time, as most batches are.
"""

import argparse
import time

import torch

from twostage_asr.encoders import SAMPLE_RATE
from twostage_asr.encoders.fbank import num_lfr_frames
from twostage_asr.encoders.sensevoice import SenseVoiceEncoder
from twostage_asr.encoders.transformer import attention_for_any_shape
from twostage_asr.engine.bench.random_checkpoint import ENCODER

REPETITIONS = 5


@torch.inference_mode()
@attention_for_any_shape()
def seconds_taken(encoder: SenseVoiceEncoder, num_clips: int, num_frames: int, device: torch.device) -> list[float]:
    """Of the first pass over a batch, and of the fastest of those that follow."""
    features = torch.randn(num_clips, num_frames, ENCODER.input_dim, device=device)
    lens = torch.full((num_clips,), num_frames, device=device)
    taken = []
    for _ in range(REPETITIONS + 1):
        _wait(device)
        started = time.perf_counter()
        encoder(features, lens)
        _wait(device)
        taken.append(time.perf_counter() - started)
    return [taken[0], min(taken[1:])]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", type=torch.device)
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 32, 128, 240])
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    num_frames = num_lfr_frames(round(args.seconds * SAMPLE_RATE))
    encoders = [SenseVoiceEncoder(ENCODER).eval().to(args.device, d) for d in (torch.bfloat16,) * 2 + (torch.float32,)]
    encoders[0].compile()
    for num_clips in (2, 3):  # one shape to compile for, and one to see that any shape is meant
        seconds_taken(encoders[0], num_clips, num_frames, args.device)
    print(f"clips   compiled bf16       bf16       fp32   a new shape, compiled   ({args.seconds:g} s, {args.device})")
    for num_clips in args.clips:
        taken = [seconds_taken(encoder, num_clips, num_frames, args.device) for encoder in encoders]
        rtfx = [num_clips * args.seconds / again for _, again in taken]
        print(f"{num_clips:>5} {rtfx[0]:>15.0f} {rtfx[1]:>10.0f} {rtfx[2]:>10.0f} {taken[0][0] * 1000:>20.0f} ms")


if __name__ == "__main__":
    main()
