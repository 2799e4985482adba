"""Compares the kernels of a step with PyTorch's operations; test_torch_decoder.py runs this in Triton's interpreter."""

import sys
from pathlib import Path

import torch

from twostage_asr.engine.decoder.base import LLMSource
from twostage_asr.engine.decoder.kernel_step import KernelStep
from twostage_asr.engine.decoder.llm import LLM
from twostage_asr.engine.decoder.plain_step import PlainStep
from twostage_asr.engine.decoder.runner import LLMRunner, Place
from twostage_asr.engine.manifest import LLMInfo

WIDTH = 64

info = LLMInfo(hidden_size=WIDTH, vocab_size=320, max_position_embeddings=512, eos_token_ids=(0,), tied=True)
source = LLMSource(Path(sys.argv[1]), info, torch.float32, 256)
generator = torch.Generator().manual_seed(0)
prompts = [torch.randn(length, WIDTH, generator=generator) * 0.1 for length in (70, 3, 20)]
bases, sizes = (0, 90, 100), (80, 10, 30)
results = []
for step in (PlainStep, KernelStep):
    llm = LLM(source, torch.device("cpu"), 130)
    llm.step = step
    llm._cache.fill_(torch.nan)
    runner = LLMRunner(llm)
    places = [Place(0, *where) for where in zip(bases, sizes, strict=True)]
    results.append([runner.prefill(prompts, places)])
    lengths = [len(prompt) for prompt in prompts]
    for tokens in ([[5], [6], [7]], [[5, *range(8)], [6, *range(9, 17)], [7, *range(20, 28)]]):
        places = [Place(*where) for where in zip(lengths, bases, sizes, strict=True)]
        results[-1].append(runner.step(tokens, places))
        lengths = [length + len(tokens[0]) for length in lengths]
for plain, kernels in zip(*results, strict=True):
    for row, size in enumerate((10, 6, 10)):  # the second sequence has no row for more
        count = min(len(plain.token_ids[row]), size)
        assert plain.token_ids[row][:count] == kernels.token_ids[row][:count], (plain.token_ids, kernels.token_ids)
        log_probs = (torch.tensor(found.log_probs[row][:count]) for found in (plain, kernels))
        torch.testing.assert_close(*log_probs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.logits, kernels.logits, rtol=1e-3, atol=1e-3)
