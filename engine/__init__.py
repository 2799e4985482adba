"""Speech recognition with LLM decoders: the public names."""

import importlib
import importlib.metadata
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
    from .families.qwen3_asr import parse_asr_output
    from .forced_aligner import ForcedAlignItem, ForcedAlignResult, Qwen3ForcedAligner
    from .qwen_style import ASRTranscription, Qwen3ASRModel
    from .service import TranscriptionService
    from .streaming import AsyncStreamingSession, Final, LiveOptions, Partial, StreamingSession
    from .streaming.sdk import FunASRNanoStreamingVLLM
    from .transcript import Segment, Token, Transcript, TranscriptWarning, Word

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
    "FunASRNanoStreamingVLLM": "streaming.sdk",
    "TranscriptionService": "service",
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(("AsyncStreamingSession", "Final", "LiveOptions", "Partial", "StreamingSession"), "streaming"),
    **dict.fromkeys(("ASRTranscription", "Qwen3ASRModel"), "qwen_style"),
    **dict.fromkeys(("ForcedAlignItem", "ForcedAlignResult", "Qwen3ForcedAligner"), "forced_aligner"),
    "parse_asr_output": "families.qwen3_asr",
    **dict.fromkeys(("Segment", "Token", "Transcript", "TranscriptWarning", "Word"), "transcript"),
}

__all__ = [
    "ASRError",
    "ASRTranscription",
    "AsyncStreamingSession",
    "AudioError",
    "AudioLimits",
    "AudioTooLongError",
    "AutoModelVLLM",
    "CheckpointError",
    "ConfigError",
    "DecodeError",
    "Final",
    "ForcedAlignItem",
    "ForcedAlignResult",
    "FunASRNanoStreamingVLLM",
    "FunASRNanoVLLM",
    "HubError",
    "LiveOptions",
    "Partial",
    "PromptTooLongError",
    "QueueFullError",
    "Qwen3ASRModel",
    "Qwen3ForcedAligner",
    "Segment",
    "ServiceClosedError",
    "StreamingSession",
    "Token",
    "Transcript",
    "TranscriptWarning",
    "TranscriptionService",
    "UnsupportedAudioError",
    "Word",
    "parse_asr_output",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("twostage-asr")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
