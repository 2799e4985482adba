"""A synthesizer that needs no espeak-ng: a tone per word. Where espeak-ng is installed, the real one is used."""

import contextlib
import ctypes
import zlib

import espeak
import numpy as np
import pytest
from espeak import SAMPLE_RATE, Speech, Voice

_WORD_S = 0.25


def use_stand_in_unless_installed() -> None:
    """Change espeak.Synthesizer in this process, and in those that it forks."""
    with contextlib.suppress(OSError):
        ctypes.CDLL("libespeak-ng.so.1")
        return
    use_stand_in(pytest.MonkeyPatch())


def use_stand_in(patch: pytest.MonkeyPatch) -> None:
    """Change espeak.Synthesizer in this process, and in those that it forks."""
    patch.setattr(espeak.Synthesizer, "__init__", lambda self: None)
    patch.setattr(espeak.Synthesizer, "speak", _speak)


def _speak(_self: object, text: str, _voice: Voice) -> Speech:
    time = np.arange(round(_WORD_S * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    tones, starts, position = [], [], 0
    for index, word in enumerate(text.split()):
        starts.append((position, index * _WORD_S))
        tones.append(np.sin(2 * np.pi * (200 + zlib.crc32(word.encode()) % 2000) * time))
        position += len(word) + 1
    return Speech(waveform=np.concatenate(tones).astype(np.float32), word_starts=tuple(starts))
