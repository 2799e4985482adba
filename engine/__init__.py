"""Speech recognition with LLM decoders: the public names."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audio import AudioLimits
    from .auto import AutoModelVLLM, FunASRNanoVLLM
    from .errors import (
        ASRError,
        AudioError,
        AudioTooLongError,
        CheckpointError,
        ConfigError,
        DecodeError,
        HubError,
        PromptTooLongError,
        QueueFullError,
        ServiceClosedError,
        UnsupportedAudioError,
    )
    from .service import TranscriptionService
    from .transcript import Segment, Transcript, TranscriptWarning, Word

_ERRORS = (
    "ASRError",
    "AudioError",
    "AudioTooLongError",
    "CheckpointError",
    "ConfigError",
    "DecodeError",
    "HubError",
    "PromptTooLongError",
    "QueueFullError",
    "ServiceClosedError",
    "UnsupportedAudioError",
)
# Loaded when asked for: the errors and transcripts need no torch.
_HOMES = {
    "AudioLimits": "audio",
    "AutoModelVLLM": "auto",
    "FunASRNanoVLLM": "auto",
    "TranscriptionService": "service",
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(("Segment", "Transcript", "TranscriptWarning", "Word"), "transcript"),
}

__all__ = [
    "ASRError",
    "AudioError",
    "AudioLimits",
    "AudioTooLongError",
    "AutoModelVLLM",
    "CheckpointError",
    "ConfigError",
    "DecodeError",
    "FunASRNanoVLLM",
    "HubError",
    "PromptTooLongError",
    "QueueFullError",
    "Segment",
    "ServiceClosedError",
    "Transcript",
    "TranscriptWarning",
    "TranscriptionService",
    "UnsupportedAudioError",
    "Word",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
