"""What a benchmark transcribes: random clips, in memory or in files, or somebody's audio."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile
import soxr

from ..audio import SAMPLE_RATE, Waveform
from ..decoder.base import DecodeParams
from ..errors import ConfigError
from ..families.base import Request
from ..inputs import AudioInput, expand_inputs
from ..transcriber import TranscribeOptions

Form = Literal["memory", "wav", "mp3"]

TOKENS_PER_SECOND = 4  # of Mandarin speech
LANGUAGE = "中文"  # that random clips are said to be in
ALONE_S = 10.0  # the clip whose latency is measured
MP3_RATE, MP3_BIT_RATE = 48_000, 128_000  # stereo
LEVEL = 0.05  # of the noise, root mean square
AUDIO_SUFFIXES = frozenset(
    (".aac", ".aiff", ".amr", ".flac", ".m4a", ".mkv", ".mov", ".mp3", ".mp4", ".ogg", ".opus", ".wav", ".webm", ".wma")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Clips, and how long their answers are."""

    name: str
    items: Sequence[AudioInput]
    num_tokens: int | None = None  # that every clip decodes; None: until its text ends

    def options(self, *, timestamps: bool) -> TranscribeOptions:
        """How the engine is to transcribe them."""
        if self.num_tokens is None:
            return TranscribeOptions(request=Request(), params=DecodeParams(), timestamps=timestamps)
        params = DecodeParams(max_new_tokens=self.num_tokens, ignore_eos=True)
        return TranscribeOptions(request=Request(language=LANGUAGE), params=params, timestamps=timestamps)

    def first(self) -> "Load":
        """Its first clip alone."""
        return replace(self, name=self.items[0].key, items=self.items[:1])


def random_load(clips: Sequence[Waveform], form: Form, folder: Path) -> Load:
    """Random weights never end a sentence, so that every clip decodes TOKENS_PER_SECOND of the mean clip."""
    items = _in_memory(clips) if form == "memory" else _in_files(clips, form, folder)
    where = {
        "memory": "in memory",
        "wav": "in WAV files (16 kHz, 16 bit)",
        "mp3": f"in MP3 files ({MP3_RATE // 1000} kHz stereo, {MP3_BIT_RATE // 1000} kbit/s)",
    }
    num_tokens = max(1, round(TOKENS_PER_SECOND * sum(map(len, clips)) / SAMPLE_RATE / len(clips)))
    return Load(name=f"{len(clips)} random clip(s) {where[form]}", items=items, num_tokens=num_tokens)


def given_load(source: Path) -> Load:
    """Audio of a folder (searched to its depths), of a list file, or of one file; decoded until its text ends.

    Raises:
        ConfigError: there is none.
    """
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        items = expand_inputs(found)
    else:
        items = expand_inputs(source)
    if not items:
        raise ConfigError(f"{source}: holds no audio; looked for {', '.join(sorted(AUDIO_SUFFIXES))}")
    return Load(name=f"{len(items)} clip(s) of {source.name}", items=items)


def random_clips(count: int) -> list[Waveform]:
    """Noise of log-normal lengths, mean about 9.5 s, 1.5 to 30 s; the same in every call."""
    if count < 1:
        raise ConfigError(f"a benchmark needs at least 1 clip, got {count}")
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(2.1, 0.6, count), 1.5, 30)
    return [(rng.standard_normal(int(SAMPLE_RATE * s)) * LEVEL).astype(np.float32) for s in seconds]


def random_clip(seconds: float) -> Waveform:
    rng = np.random.default_rng(1)
    return (rng.standard_normal(round(SAMPLE_RATE * seconds)) * LEVEL).astype(np.float32)


def _in_memory(clips: Sequence[Waveform]) -> list[AudioInput]:
    return expand_inputs([(clip, SAMPLE_RATE) for clip in clips])


def _in_files(clips: Sequence[Waveform], form: Form, folder: Path) -> list[AudioInput]:
    folder.mkdir()
    paths = [folder / f"{number:06d}.{form}" for number in range(len(clips))]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(_write_wav if form == "wav" else _write_mp3, paths, clips))
    return expand_inputs(paths)


def _write_wav(path: Path, clip: Waveform) -> None:
    soundfile.write(path, clip, SAMPLE_RATE, subtype="PCM_16")


def _write_mp3(path: Path, clip: Waveform) -> None:
    resampled = soxr.resample(clip, SAMPLE_RATE, MP3_RATE)
    frame = av.AudioFrame.from_ndarray(np.stack([resampled, resampled]), format="fltp", layout="stereo")
    frame.sample_rate = MP3_RATE
    with av.open(path, "w", format="mp3") as file:
        stream = file.add_stream("libmp3lame", rate=MP3_RATE, layout="stereo")
        stream.bit_rate = MP3_BIT_RATE
        pieces = av.AudioResampler(format=stream.format, frame_size=stream.codec_context.frame_size)
        for piece in [*pieces.resample(frame), *pieces.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
