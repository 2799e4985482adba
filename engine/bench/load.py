"""The loads of a benchmark: random clips, in memory or in files, or given audio.

Loads are identified by their form, which says where the clips are stored, and by their number of clips.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from ..audio.decode import SAMPLE_RATE, Waveform
from ..audio.inputs import AudioInput, audio_files, expand_inputs
from ..cores import usable_cores
from ..decoder.base import DecodeParams
from ..errors import ConfigError
from ..families.base import Request
from ..run_options import TranscribeOptions

Form = Literal["memory", "wav", "mp3"]

TOKENS_PER_SECOND = 4  # LLM tokens per second of Mandarin speech
LANGUAGE = "中文"  # the language that is asked for with random clips
FEW_S = 10.0  # length of a clip whose latency is measured
MP3_RATE = 48_000
MP3_128_KBITS = (320 - 128) / (320 - 32)  # libsndfile's level goes from 320 kbit/s at 0 to 32 at 1
LEVEL = 0.05  # root mean square of the noise
NOISE_SAMPLES = 3600 * SAMPLE_RATE  # most noise in memory, for any number of clips


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Clips, and the length of their answers."""

    form: str  # a Form, or the name of the given source
    items: Sequence[AudioInput]
    num_tokens: int | None = None  # number of tokens decoded for each clip; None: until the text ends
    language: str | None = LANGUAGE  # asked for with random clips; None if the model's prompt has no place for it

    def options(self, *, timestamps: bool) -> TranscribeOptions:
        """The options with which the engine transcribes the clips."""
        if self.num_tokens is None:
            return TranscribeOptions(request=Request(), params=DecodeParams(), timestamps=timestamps)
        params = DecodeParams(max_new_tokens=self.num_tokens, ignore_eos=True)
        # A random CTC head contradicts every random text, so that checking would run a VAD on every clip.
        return TranscribeOptions(
            request=Request(language=self.language), params=params, timestamps=timestamps, check=False
        )

    def head(self, num_clips: int) -> "Load":
        """A load of the first clips."""
        return replace(self, items=self.items[:num_clips])

    def first(self, times: int) -> "Load":
        """A load of the first clip, `times` times."""
        return replace(self, items=[self.items[0]] * times)


def random_load(lengths: Sequence[int], form: Form, folder: Path) -> Load:
    """Clips of noise with these lengths in samples; the same in every call.

    Random weights never end a text. So each clip decodes the same number of tokens: TOKENS_PER_SECOND times the mean
    length.
    """
    clips = random_clips(lengths)
    if form == "memory":
        items = expand_inputs([(clip, SAMPLE_RATE) for clip in clips])
    else:
        folder.mkdir()
        paths = [folder / f"{number:06d}.{form}" for number in range(len(lengths))]
        with ThreadPoolExecutor(usable_cores()) as threads:
            list(threads.map(_write_wav if form == "wav" else _write_mp3, paths, clips))
        items = expand_inputs(paths)
    num_tokens = max(1, round(TOKENS_PER_SECOND * sum(lengths) / SAMPLE_RATE / len(lengths)))
    return Load(form=form, items=items, num_tokens=num_tokens)


def given_load(source: Path) -> Load:
    """The audio of a folder and its subfolders, of a list file, or of one file; decoded until its text ends.

    Raises:
        ConfigError: there is no audio.
    """
    items = audio_files(source).inputs if source.is_dir() else expand_inputs(source)
    if not items:
        raise ConfigError(f"{source}: lists no audio")
    return Load(form=source.name, items=items)


def random_lengths(count: int) -> list[int]:
    """Clip lengths in samples: log-normal, mean about 9.5 s, between 1.5 and 30 s.

    A smaller `count` gives the first lengths of a larger one.
    """
    seconds = np.clip(np.random.default_rng(0).lognormal(2.1, 0.6, count), 1.5, 30)
    return [int(SAMPLE_RATE * s) for s in seconds]


def noise(seed: int, num_samples: int) -> Waveform:
    return np.random.default_rng(seed).standard_normal(num_samples, np.float32) * np.float32(LEVEL)


def random_clips(lengths: Sequence[int]) -> list[Waveform]:
    """Clips cut one after the other from the same noise, starting over at its end.

    They are views: copies would take so much memory that the engine's own use would not show beside them.
    """
    source = noise(0, min(sum(lengths), NOISE_SAMPLES))
    clips, start = [], 0
    for length in lengths:
        if start + length > len(source):
            start = 0
        clips.append(source[start : start + length])
        start += length
    return clips


def _write_wav(path: Path, clip: Waveform) -> None:
    soundfile.write(path, clip, SAMPLE_RATE, subtype="PCM_16")


def _write_mp3(path: Path, clip: Waveform) -> None:
    channel = soxr.resample(clip, SAMPLE_RATE, MP3_RATE)
    stereo = np.stack([channel, channel], axis=1)
    soundfile.write(path, stereo, MP3_RATE, bitrate_mode="CONSTANT", compression_level=MP3_128_KBITS)
