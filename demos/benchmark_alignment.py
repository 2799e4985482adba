"""Time the ways to find CTC paths, on random emissions held in memory.

    python demos/benchmark_alignment.py [--device cuda] [--threads 1]

Ways: torchaudio's search on the device, clip by clip; ours on the device, all clips at once; and, for a GPU, copying
the emissions to the CPU and searching there with torchaudio. A clip has T frames of 60 ms, S tokens, and emissions of
the S + 1 columns that alignment looks at. Milliseconds for the batch, best of 10, and hours of audio a second.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from twostage_asr.engine.words.viterbi import batched_paths, torchaudio_paths

SIZES = [(80, 10), (80, 25), (170, 40), (250, 80)]  # (T, S): 4.8 s, 4.8 s of fast speech, 10 s, 15 s
BATCHES = [1, 8, 64, 256]
REPEATS = 10
FRAME_S = 0.06


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"torch {torch.__version__} on {name}; ms for the batch (hours of audio a second)")
    ways: dict[str, Callable[..., Tensor]] = {"torchaudio": torchaudio_paths, "batched": batched_paths}
    if device.type != "cpu":
        ways["copy to CPU, torchaudio"] = on_cpu
    print(f"{'clips':>6}{'T':>5}{'S':>4}" + "".join(f"{way:>26}" for way in ways))
    for num_clips in BATCHES:
        for num_frames, num_tokens in SIZES:
            batch = random_batch(num_clips, num_frames, num_tokens, device)
            hours = num_clips * num_frames * FRAME_S / 3600
            seconds = [best_time(partial(find_paths, *batch), device) for find_paths in ways.values()]
            cells = "".join(f"{f'{1000 * s:.2f} ({hours / s:.2f} h/s)':>26}" for s in seconds)
            print(f"{num_clips:6}{num_frames:5}{num_tokens:4}{cells}")


def random_batch(num_clips: int, num_frames: int, num_tokens: int, device: torch.device) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    emissions = torch.randn(num_clips, num_frames, num_tokens + 1, generator=generator).mul(3).log_softmax(-1)
    targets = torch.randint(1, num_tokens + 1, (num_clips, num_tokens), generator=generator)
    lens = torch.full((num_clips,), num_frames), torch.full((num_clips,), num_tokens)
    return emissions.to(device), targets.to(device), *lens


def on_cpu(emissions: Tensor, targets: Tensor, frame_lens: Tensor, target_lens: Tensor) -> Tensor:
    return torchaudio_paths(emissions.cpu(), targets.cpu(), frame_lens, target_lens)


def best_time(work: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds until the paths are known."""
    seconds = []
    for _ in range(REPEATS + 1):  # the first one warms up
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


if __name__ == "__main__":
    main()
