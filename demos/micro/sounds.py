"""What is not speech: music-like tones, hum, beats, noises. Each function gives (N,) float32 with peak 1 at 16 kHz."""

import numpy as np
from espeak import SAMPLE_RATE, FloatArray

Generator = np.random.Generator

_A4_HZ = 440.0
_CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 11), (0, 5, 7), (0, 3, 6), (0, 12), (0,))  # semitones above the root


def draw_sound(rng: Generator, duration_s: float) -> FloatArray:
    """One sound of any kind."""
    kinds = (chord, arpeggio, vibrato, beats, hum, sweep, noise, clicks, melody_over_beats)
    return kinds[rng.integers(len(kinds))](rng, duration_s)


def draw_music(rng: Generator, duration_s: float) -> FloatArray:
    """Chords, arpeggios, a voice with vibrato, beats, or a melody over beats."""
    kinds = (chord, arpeggio, vibrato, beats, melody_over_beats)
    return kinds[rng.integers(len(kinds))](rng, duration_s)


def chord(rng: Generator, duration_s: float) -> FloatArray:
    """Chords, each held for some time."""
    return _notes(rng, duration_s, seconds=(0.4, 3.0), together=True)


def arpeggio(rng: Generator, duration_s: float) -> FloatArray:
    """The notes of chords one after another."""
    return _notes(rng, duration_s, seconds=(0.08, 0.4), together=False)


def melody_over_beats(rng: Generator, duration_s: float) -> FloatArray:
    """Notes and drums."""
    return _peak_one(arpeggio(rng, duration_s) + rng.uniform(0.3, 1.5) * beats(rng, duration_s))


def vibrato(rng: Generator, duration_s: float) -> FloatArray:
    """One long tone whose pitch swings."""
    time = _time(duration_s)
    hz = _note_hz(rng) * 2 ** (rng.uniform(0.1, 1.0) / 12 * np.sin(2 * np.pi * rng.uniform(3, 8) * time))
    return _peak_one(_harmonics(rng, 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE) * _swell(rng, time))


def sweep(rng: Generator, duration_s: float) -> FloatArray:
    """A tone that glides, once or again and again."""
    time = _time(duration_s)
    phase = (time * rng.uniform(0.2, 2.0)) % 1.0
    low, high = sorted(rng.uniform(80, 4000, 2))
    return _peak_one(np.sin(2 * np.pi * np.cumsum(low * (high / low) ** phase) / SAMPLE_RATE))


def beats(rng: Generator, duration_s: float) -> FloatArray:
    """Drum-like bursts at a steady pace."""
    time = _time(duration_s)
    out = np.zeros_like(time)
    period = rng.uniform(0.15, 0.8)
    for share in (1.0, rng.choice((0.5, 2.0, 3.0))):
        since = time % (period * share)
        decay = np.exp(-since / rng.uniform(0.01, 0.12))
        tone = np.sin(2 * np.pi * rng.uniform(50, 300) * since * np.exp(-3 * since))
        out += decay * (tone if rng.random() < 0.5 else rng.standard_normal(len(time)))
    return _peak_one(out)


def hum(rng: Generator, duration_s: float) -> FloatArray:
    """Mains hum: 50 or 60 Hz and harmonics, with a little noise."""
    time = _time(duration_s)
    phase = 2 * np.pi * rng.choice((50.0, 60.0, rng.uniform(40, 400))) * time
    return _peak_one(_harmonics(rng, phase) + rng.uniform(0, 0.1) * rng.standard_normal(len(time)))


def clicks(rng: Generator, duration_s: float) -> FloatArray:
    """Short knocks at random moments."""
    out = np.zeros(round(duration_s * SAMPLE_RATE))
    for _ in range(rng.integers(1, 2 + int(4 * duration_s))):
        size = int(rng.integers(8, 800))
        start = rng.integers(max(len(out) - size, 1))
        knock = rng.standard_normal(size) * np.exp(-np.arange(size) / (size / 4))
        out[start : start + size] += knock[: len(out) - start]
    return _peak_one(out)


def noise(rng: Generator, duration_s: float) -> FloatArray:
    """Steady noise whose spectrum falls, rises or is one band; it may swell."""
    return _peak_one(coloured_noise(rng, round(duration_s * SAMPLE_RATE)) * _swell(rng, _time(duration_s)))


def coloured_noise(rng: Generator, num_samples: int) -> FloatArray:
    """White, pink, brown or band noise of power 1."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    hz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
    kind = rng.integers(4)
    if kind < 3:  # white, pink, brown
        spectrum *= np.maximum(hz, 30.0) ** (-kind / 2)
    else:
        centre = np.exp(rng.uniform(np.log(150), np.log(5000)))
        spectrum *= np.exp(-(np.log(np.maximum(hz, 1.0) / centre) ** 2) / rng.uniform(0.1, 1.0))
    samples = np.fft.irfft(spectrum, num_samples)
    return (samples / np.sqrt(np.mean(samples**2))).astype(np.float32)


def _notes(rng: Generator, duration_s: float, *, seconds: tuple[float, float], together: bool) -> FloatArray:
    out = np.zeros(round(duration_s * SAMPLE_RATE))
    root, start = _note_hz(rng), 0
    length_s = rng.uniform(*seconds)
    while start < len(out):
        time = _time(min(length_s, (len(out) - start) / SAMPLE_RATE))
        if len(time) == 0:
            break
        steps = _CHORDS[rng.integers(len(_CHORDS))]
        if not together:
            steps = (int(rng.choice(steps)) + 12 * int(rng.integers(2)),)
        shift = rng.choice((0, 2, 4, 5, 7, 9, -3))
        for step in steps:
            out[start : start + len(time)] += _harmonics(rng, 2 * np.pi * root * 2 ** ((step + shift) / 12) * time) * (
                np.minimum(time / 0.01, 1) * np.exp(-time / (length_s * 1.5))
            )
        start += len(time)
    return _peak_one(out)


def _note_hz(rng: Generator) -> float:
    return float(_A4_HZ * 2 ** (rng.integers(-24, 15) / 12))


def _harmonics(rng: Generator, phase: np.ndarray) -> np.ndarray:
    strengths = rng.uniform(0, 1, 6) * rng.uniform(0.2, 0.9) ** np.arange(6)
    strengths[0] = 1.0
    return sum(strength * np.sin((index + 1) * phase) for index, strength in enumerate(strengths))


def _swell(rng: Generator, time: np.ndarray) -> np.ndarray:
    depth = rng.choice((0.0, rng.uniform(0.2, 1.0)))
    return 1 - depth * 0.5 * (1 + np.sin(2 * np.pi * rng.uniform(0.1, 4) * time + rng.uniform(0, 6)))


def _time(duration_s: float) -> np.ndarray:
    return np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE


def _peak_one(samples: np.ndarray) -> FloatArray:
    return (samples / max(float(np.abs(samples).max()), 1e-9)).astype(np.float32)
