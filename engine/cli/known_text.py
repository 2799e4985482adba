"""Audio and its known text -> word times, by stage 1 and the CTC head, without an LLM.

A recording of any length is encoded in windows, because the encoder's time and memory grow faster than the length of
what it is given. Then one search finds the path of the text through all of the recording.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..acoustic.base import AcousticModel, StageOneOptions
from ..audio.decode import SAMPLE_RATE, Waveform
from ..config import EngineConfig
from ..errors import ConfigError
from ..families import family_named
from ..manifest import EngineManifest
from ..text import clean_text
from ..transcript import Segment, Transcript, TranscriptWarning
from ..words.aligner import WordAligner
from ..words.forced_aligner import FAMILY as FORCED_ALIGNER
from ..words.forced_aligner import MAX_AUDIO_S
from ..words.pauses import edges_at_sound

WINDOW_S = 24.0  # most audio whose frames one window keeps
CONTEXT_S = 3.0  # what is encoded with it on each side; 30 s in all are what the encoder hears best
AT_ONCE = 4  # windows


class _Stage(NamedTuple):
    """Stage 1 without an LLM."""

    acoustic: AcousticModel
    aligner: WordAligner
    frame_s: float


class _Window(NamedTuple):
    """Frames of a recording."""

    heard: slice
    kept: slice


def align_known_text(
    engine_dir: Path, waveform: Waveform, text: str, *, key: str, device: str, tell: Callable[[float], object]
) -> Transcript:
    """The transcript of a known text, with its word times; without words, and with a warning, if it is not spoken.

    Args:
        engine_dir: a converted model.
        waveform: (N,) float32, 16 kHz.
        tell: is called with the seconds of audio that have been encoded.

    Raises:
        ConfigError: the model has no CTC head.
        CheckpointError: the model cannot be loaded.
    """
    stage = _loaded(engine_dir, device)
    hidden = _hidden(stage, waveform, tell)
    text, duration = clean_text(text), len(waveform) / SAMPLE_RATE
    (alignment,) = stage.aligner.align([hidden], [text], [duration])
    words = alignment.words and edges_at_sound(alignment.words, waveform)
    warnings = () if alignment.reason is None else (TranscriptWarning("no_word_times", alignment.reason),)
    start, end = (words[0].start, words[-1].end) if words else (0.0, duration)
    return Transcript(
        key=key,
        text=text,
        words=words,
        segments=(Segment(start, end, text, words, None),) if text else (),
        duration=duration,
        warnings=warnings,
    )


def _loaded(engine_dir: Path, device: str) -> _Stage:
    """Load what aligns. Raises ConfigError for a model without a CTC head, and CheckpointError."""
    manifest = EngineManifest.read(engine_dir)
    if manifest.family == FORCED_ALIGNER:
        raise ConfigError(
            "align needs a model with a CTC head, which takes audio of any length; a forced aligner takes up to "
            f"{MAX_AUDIO_S:g} s at a time, by Qwen3ForcedAligner.align in Python"
        )
    config = EngineConfig(device=device)
    torch_device = config.torch_device()
    dtype = config.torch_dtype(config.encoder_dtype, torch_device)
    options = StageOneOptions(device=torch_device, dtype=dtype, embeds_dtype=dtype)
    acoustic, aligner = family_named(manifest.family).build_acoustic_model(engine_dir, manifest, options)
    if aligner is None or manifest.frame_clock is None:
        raise ConfigError(manifest.missing.get("ctc", "this model cannot time words"))
    return _Stage(acoustic, aligner, manifest.frame_clock.frame_s)


def _hidden(stage: _Stage, waveform: Waveform, tell: Callable[[float], object]) -> Tensor:
    """The hidden states (T, D) of the CTC head for all of a recording."""
    encoded = _encoded(stage, waveform, tell)
    first = next(encoded)
    hidden = first.new_empty(stage.acoustic.num_frames(len(waveform)), first.shape[1])
    position = 0
    for states in itertools.chain([first], encoded):
        hidden[position : position + len(states)] = states
        position += len(states)
    if hidden.is_cuda:
        torch.cuda.synchronize(hidden.device)  # the aligner reads them in a stream of its own
    return hidden


def _encoded(stage: _Stage, waveform: Waveform, tell: Callable[[float], object]) -> Iterator[Tensor]:
    """The hidden states of the frames that each window keeps, in order."""
    hop = round(stage.frame_s * SAMPLE_RATE)
    windows = _windows(stage.acoustic.num_frames(len(waveform)), stage.frame_s)
    tell(0.0)
    for i in range(0, len(windows), AT_ONCE):
        batch = windows[i : i + AT_ONCE]
        clips = [waveform[window.heard.start * hop : window.heard.stop * hop] for window in batch]
        utterances = stage.acoustic.encode(clips, with_ctc=True).utterances()
        for window, utterance in zip(batch, utterances, strict=True):
            assert utterance.ctc_hidden is not None, "there is a CTC head"
            kept = window.kept
            yield utterance.ctc_hidden[kept.start - window.heard.start : kept.stop - window.heard.start]
        tell(min(batch[-1].kept.stop * hop, len(waveform)) / SAMPLE_RATE)


def _windows(num_frames: int, frame_s: float) -> list[_Window]:
    """Windows of equal length that together keep each frame of a recording once; a short recording is one window."""
    longest, context = round(WINDOW_S / frame_s), round(CONTEXT_S / frame_s)
    count = 1 if num_frames <= longest + 2 * context else -(-num_frames // longest)
    return [
        _Window(slice(max(first - context, 0), min(stop + context, num_frames)), slice(first, stop))
        for first, stop in itertools.pairwise(num_frames * i // count for i in range(count + 1))
    ]
