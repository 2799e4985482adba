"""Sounds for models with random weights: they need only differ."""

import numpy as np

SAMPLE_RATE = 16_000


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    """A glide with harmonics and noise, loud enough to move the features."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * (150 + 60 * seed) * t * (1 + 0.3 * np.sin((1 + seed) * t))
    wave = sum(np.sin(k * phase) / k for k in range(1, 6)) * (0.6 + 0.4 * np.sin(5 * t))
    return (0.2 * wave + 0.02 * rng.standard_normal(len(t))).astype(np.float32)
