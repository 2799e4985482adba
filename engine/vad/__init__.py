"""Voice activity detection: finds speech in a stream of samples, and cuts long recordings into segments.

In: samples at 16 kHz, in chunks of any size. Out: SpeechSpans, and from splitting.py the segments that become clips.
Read segmenter.py first: it turns a network's speech probabilities into segments. The "silero" VAD needs no torch.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from ..checks import check_type
from ..errors import ConfigError
from .base import SpeechSpan, VoiceActivityModel, VoiceActivityStream
from .segmenter import (
    FIXED_SCHEDULE,
    LIVE_RULES,
    LIVE_SCHEDULE,
    OFFLINE_SCHEDULE,
    RECORDING_SCHEDULE,
    STREAMING_SCHEDULE,
    Schedule,
    SegmentRules,
    SpeechSegmenter,
    checked_schedule,
)

if TYPE_CHECKING:
    from .silero import SileroVAD

__all__ = [
    "FIXED_SCHEDULE",
    "LIVE_RULES",
    "LIVE_SCHEDULE",
    "OFFLINE_SCHEDULE",
    "RECORDING_SCHEDULE",
    "STREAMING_SCHEDULE",
    "Schedule",
    "SegmentRules",
    "SpeechSegmenter",
    "SpeechSpan",
    "VoiceActivityModel",
    "VoiceActivityStream",
    "checked_schedule",
    "load_silero",
    "load_vad",
]


def load_vad(name: str | Path = "silero") -> VoiceActivityModel:
    """Load "silero", or the fsmn-vad checkpoint in a directory. Each is loaded once per process.

    Raises:
        ConfigError: `name` is neither "silero" nor a directory.
        CheckpointError: the directory holds no fsmn-vad.
    """
    check_type("vad", name, str | Path)
    return _load_vad(name)


@functools.cache
def load_silero() -> "SileroVAD":
    """Load silero-vad. Raises ConfigError if its package lacks the file."""
    from .silero import SileroVAD

    return SileroVAD()


@functools.cache
def _load_vad(name: str | Path) -> VoiceActivityModel:
    if name == "silero":
        return load_silero()
    if not name or not Path(name).is_dir():
        raise ConfigError(f"vad must be 'silero' or the directory of an fsmn-vad checkpoint, got {str(name)!r}")
    from .fsmn import FsmnVAD

    return FsmnVAD.from_directory(Path(name))
