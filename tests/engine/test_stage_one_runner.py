"""What stage 1 prepares behind the first text."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from twostage_asr.encoders import SAMPLE_RATE
from twostage_asr.engine.acoustic.base import StageOneOptions
from twostage_asr.engine.acoustic.cuda_graphs import FRAME_STEP, MAX_CLIPS, MAX_FRAMES, bucket_of
from twostage_asr.engine.acoustic.runner import USUAL_CLIPS, StageOneRunner

FRAME_SAMPLES = 960


class Runner(StageOneRunner):
    """Frames of 60 ms, without content."""

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // FRAME_SAMPLES)

    def num_audio_tokens(self, num_samples: int) -> int:
        return self.num_frames(num_samples)

    def _compile(self) -> None:
        """Nothing."""

    def _features(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        lens = torch.tensor([self.num_frames(len(waveform)) for waveform in waveforms])
        return torch.zeros(len(waveforms), int(lens.max()), 1), lens

    def _run_modules(self, features: Tensor, lens: Tensor, /) -> tuple[Tensor, ...]:
        return (features,)


def runner(max_clips: int) -> Runner:
    options = StageOneOptions(device=torch.device("cpu"), dtype=torch.float32, embeds_dtype=torch.float32)
    return Runner(options, max_clips=max_clips)


def buckets_of(ours: Runner) -> list[tuple[int, int]]:
    """Of the batches that the further steps run."""
    buckets = []

    def graphs(features: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        buckets.append(bucket_of(*features.shape[:2]))
        return (features,)

    ours._graphs = graphs
    for step in ours.further_steps():
        step()
    return buckets


def test_each_usual_size_of_a_small_batch_is_run_once() -> None:
    lengths = range(FRAME_STEP, MAX_FRAMES + 1, FRAME_STEP)
    assert max(lengths) * FRAME_SAMPLES >= 30 * SAMPLE_RATE  # the longest clip that is encoded in one piece
    assert buckets_of(runner(MAX_CLIPS)) == [(size, length) for size in USUAL_CLIPS for length in lengths]
    assert {size for size, _ in buckets_of(runner(2))} == {1, 2}


def test_without_compiled_modules_nothing_is_run() -> None:
    ours = runner(MAX_CLIPS)
    ours.prepare()  # on a CPU it compiles nothing
    for step in ours.further_steps():
        step()
    assert ours._graphs is None
