"""What a benchmark transcribes: random clips, in memory or in files, or somebody's audio."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from ..audio import SAMPLE_RATE, Waveform
from ..decoder.base import DecodeParams
from ..errors import ConfigError
from ..families.base import Request
from ..inputs import AudioInput, audio_files, expand_inputs
from ..transcriber import TranscribeOptions

Form = Literal["memory", "wav", "mp3"]

TOKENS_PER_SECOND = 4  # of Mandarin speech
LANGUAGE = "中文"  # that random clips are said to be in
FEW_S = 10.0  # each clip whose latency is measured
MP3_RATE = 48_000
MP3_128_KBITS = (320 - 128) / (320 - 32)  # libsndfile's level goes from 320 kbit/s at 0 to 32 at 1
LEVEL = 0.05  # of the noise, root mean square


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Clips, and how long their answers are."""

    name: str
    items: Sequence[AudioInput]
    num_tokens: int | None = None  # that every clip decodes; None: until its text ends
    language: str | None = LANGUAGE  # of random clips; None for a model whose prompt has no place for it

    def options(self, *, timestamps: bool) -> TranscribeOptions:
        """How the engine is to transcribe them."""
        if self.num_tokens is None:
            return TranscribeOptions(request=Request(), params=DecodeParams(), timestamps=timestamps)
        params = DecodeParams(max_new_tokens=self.num_tokens, ignore_eos=True)
        # Random texts contradict random CTC heads: checking them would ask a VAD about every clip.
        return TranscribeOptions(
            request=Request(language=self.language), params=params, timestamps=timestamps, check=False
        )

    def first(self, times: int) -> "Load":
        """Its first clip, so many times at once."""
        return replace(self, name=f"{times} of {self.items[0].key}", items=[self.items[0]] * times)


def random_load(lengths: Sequence[int], form: Form, folder: Path) -> Load:
    """Noise of these lengths, in samples: the same in every call.

    Every clip decodes TOKENS_PER_SECOND of the mean clip, because random weights never end a text.
    """
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        if form == "memory":
            items = expand_inputs([(clip, SAMPLE_RATE) for clip in threads.map(noise, range(len(lengths)), lengths)])
            where = "in memory"
        else:
            folder.mkdir()
            paths = [folder / f"{number:06d}.{form}" for number in range(len(lengths))]
            list(threads.map(_write_wav if form == "wav" else _write_mp3, paths, range(len(lengths)), lengths))
            items = expand_inputs(paths)
            where = "in 16 kHz WAV files" if form == "wav" else "in 48 kHz stereo MP3 files"
    num_tokens = max(1, round(TOKENS_PER_SECOND * sum(lengths) / SAMPLE_RATE / len(lengths)))
    return Load(name=f"{len(lengths)} random clip(s) {where}", items=items, num_tokens=num_tokens)


def given_load(source: Path) -> Load:
    """Audio of a folder (searched to its depths), of a list file, or of one file; decoded until its text ends.

    Raises:
        ConfigError: there is none.
    """
    items = audio_files(source) if source.is_dir() else expand_inputs(source)
    if not items:
        raise ConfigError(f"{source}: lists no audio")
    return Load(name=f"{len(items)} clip(s) of {source.name}", items=items)


def random_lengths(count: int) -> list[int]:
    """Samples: log-normal, mean about 9.5 s, 1.5 to 30 s; the same in every call."""
    if count < 1:
        raise ConfigError(f"a benchmark needs at least 1 clip, got {count}")
    seconds = np.clip(np.random.default_rng(0).lognormal(2.1, 0.6, count), 1.5, 30)
    return [int(SAMPLE_RATE * s) for s in seconds]


def noise(seed: int, num_samples: int) -> Waveform:
    return np.random.default_rng(seed).standard_normal(num_samples, np.float32) * np.float32(LEVEL)


def _write_wav(path: Path, seed: int, num_samples: int) -> None:
    soundfile.write(path, noise(seed, num_samples), SAMPLE_RATE, subtype="PCM_16")


def _write_mp3(path: Path, seed: int, num_samples: int) -> None:
    channel = soxr.resample(noise(seed, num_samples), SAMPLE_RATE, MP3_RATE)
    stereo = np.stack([channel, channel], axis=1)
    soundfile.write(path, stereo, MP3_RATE, bitrate_mode="CONSTANT", compression_level=MP3_128_KBITS)
