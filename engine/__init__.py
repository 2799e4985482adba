"""Speech recognition with LLM decoders: the public names.

Read auto.py first (AutoModelVLLM, which users build), then pipeline.py (the steps that every clip passes).
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audio.inputs import AudioInput, Input, Inputs
    from .audio.waveform import AudioLimits
    from .auto import AutoModelVLLM
    from .compat.funasr import FunASRNanoStreamingVLLM, FunASRNanoVLLM
    from .compat.qwen_asr import ASRTranscription, Qwen3ASRModel
    from .console import quiet_libraries
    from .errors import (
        ASRError,
        AudioError,
        AudioTooLongError,
        CheckpointError,
        ConfigError,
        DecodeError,
        ErrorCode,
        HubError,
        InternalError,
        OutOfMemoryError,
        PromptTooLongError,
        QueueFullError,
        ServiceClosedError,
        UnsupportedAudioError,
    )
    from .families.qwen3_asr import parse_asr_output
    from .options import GenerateOptions, RequestOptions, SegmentOptions, SessionOptions
    from .run_options import TranscribeOptions, transcribe_options
    from .service import TranscriptionService
    from .streaming import (
        AsyncStreamingSession,
        Event,
        Final,
        LiveOptions,
        LiveSpeakers,
        Partial,
        StreamingSession,
        relabelled,
    )
    from .streaming.qwen import ASRStreamingState
    from .streaming.sdk import StreamingResult, session_options
    from .transcript import Segment, Token, Transcript, TranscriptWarning, Word
    from .vad import SegmentRules, load_vad
    from .words.forced_aligner import ForcedAlignItem, ForcedAlignResult, Qwen3ForcedAligner

# Imported on first use, so that importing errors or transcripts does not import torch.
_NAMES = {
    "auto": ("AutoModelVLLM",),
    "console": ("quiet_libraries",),
    "compat.funasr": ("FunASRNanoStreamingVLLM", "FunASRNanoVLLM"),
    "compat.qwen_asr": ("ASRTranscription", "Qwen3ASRModel"),
    "errors": (
        "ASRError",
        "AudioError",
        "AudioTooLongError",
        "CheckpointError",
        "ConfigError",
        "DecodeError",
        "ErrorCode",
        "HubError",
        "InternalError",
        "OutOfMemoryError",
        "PromptTooLongError",
        "QueueFullError",
        "ServiceClosedError",
        "UnsupportedAudioError",
    ),
    "families.qwen3_asr": ("parse_asr_output",),
    "words.forced_aligner": ("ForcedAlignItem", "ForcedAlignResult", "Qwen3ForcedAligner"),
    "audio.inputs": ("AudioInput", "Input", "Inputs"),
    "options": ("GenerateOptions", "RequestOptions", "SegmentOptions", "SessionOptions"),
    "service": ("TranscriptionService",),
    "streaming": (
        "AsyncStreamingSession",
        "Event",
        "Final",
        "LiveOptions",
        "LiveSpeakers",
        "Partial",
        "StreamingSession",
        "relabelled",
    ),
    "streaming.qwen": ("ASRStreamingState",),
    "streaming.sdk": ("StreamingResult", "session_options"),
    "run_options": ("TranscribeOptions", "transcribe_options"),
    "transcript": ("Segment", "Token", "Transcript", "TranscriptWarning", "Word"),
    "vad": ("SegmentRules", "load_vad"),
    "audio.waveform": ("AudioLimits",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "ASRError",
    "ASRStreamingState",
    "ASRTranscription",
    "AsyncStreamingSession",
    "AudioError",
    "AudioInput",
    "AudioLimits",
    "AudioTooLongError",
    "AutoModelVLLM",
    "CheckpointError",
    "ConfigError",
    "DecodeError",
    "ErrorCode",
    "Event",
    "Final",
    "ForcedAlignItem",
    "ForcedAlignResult",
    "FunASRNanoStreamingVLLM",
    "FunASRNanoVLLM",
    "GenerateOptions",
    "HubError",
    "Input",
    "Inputs",
    "InternalError",
    "LiveOptions",
    "LiveSpeakers",
    "OutOfMemoryError",
    "Partial",
    "PromptTooLongError",
    "QueueFullError",
    "Qwen3ASRModel",
    "Qwen3ForcedAligner",
    "RequestOptions",
    "Segment",
    "SegmentOptions",
    "SegmentRules",
    "ServiceClosedError",
    "SessionOptions",
    "StreamingResult",
    "StreamingSession",
    "Token",
    "TranscribeOptions",
    "Transcript",
    "TranscriptWarning",
    "TranscriptionService",
    "UnsupportedAudioError",
    "Word",
    "load_vad",
    "parse_asr_output",
    "quiet_libraries",
    "relabelled",
    "session_options",
    "transcribe_options",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("twostage-asr")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
