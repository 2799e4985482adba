"""Waves that qwen_asr_golden.py and our tests cut: name, samples at 1 kHz, seconds of a piece."""

import numpy as np


def waves() -> list[tuple[str, np.ndarray, int]]:
    noise = np.random.default_rng(0).standard_normal(100 * 1000).astype(np.float32)
    quiet = noise.copy()
    quiet[31_500:31_700] = 0.0
    quiet[62_000:62_300] *= 0.01
    return [("flat", np.ones(70_000, np.float32), 30), ("noise", noise, 30), ("quiet", quiet, 30)]
