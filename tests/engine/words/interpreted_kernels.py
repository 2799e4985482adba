"""Compares our kernels with tensor operations; test_viterbi.py runs this in Triton's interpreter."""

import operator
import random
import sys

import torch

from twostage_asr.encoders.ctc_triton import log_norm_and_best
from twostage_asr.engine.words.viterbi import batched_paths, kernel_paths

NUM_BATCHES = 60

rng = random.Random(0)
for number in range(NUM_BATCHES):
    num_columns = rng.randint(2, 5)
    clips = [[rng.randrange(1, num_columns) for _ in range(rng.randint(0, 8))] for _ in range(rng.randint(1, 4))]
    fewest = [len(clip) + sum(map(operator.eq, clip, clip[1:])) for clip in clips]  # frames
    frame_lens = torch.tensor([max(least + rng.randint(0, 5), 1) for least in fewest])
    targets = torch.ones(len(clips), max(map(len, clips)), dtype=torch.int64)
    for row, clip in zip(targets, clips, strict=True):
        row[: len(clip)] = torch.tensor(clip, dtype=torch.int64)
    num_frames = int(frame_lens.max()) + rng.randint(0, 3)
    generator = torch.Generator().manual_seed(number)
    emissions = torch.randn(len(clips), num_frames, num_columns, generator=generator).mul(3).log_softmax(-1)
    if number % 2:
        emissions = emissions.round()  # many ways are equally good
    batch = emissions, targets, frame_lens, torch.tensor([len(clip) for clip in clips])
    ours, theirs = kernel_paths(*batch), batched_paths(*batch)
    assert torch.equal(ours, theirs), (number, ours, theirs)
for num_rows, num_columns, depth in ((1, 129, 16), (3, 300, 64), (130, 1000, 192)):
    generator = torch.Generator().manual_seed(num_rows)
    hidden, weight = (torch.randn(n, depth, generator=generator) * 0.5 for n in (num_rows, num_columns))
    bias = torch.randn(num_columns, generator=generator)
    # The interpreter cannot multiply bfloat16.
    logits = hidden @ weight.t() + bias
    norm, best = log_norm_and_best(hidden, weight, bias)
    torch.testing.assert_close(norm, logits.logsumexp(-1))
    assert torch.equal(best, logits.argmax(-1)), (num_rows, num_columns, depth)
sys.stdout.write(f"{NUM_BATCHES} batches agree\n")
