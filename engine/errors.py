"""The errors that users meet. Each kind has a code, which stands for it in JSON.

ASRError                        failed              any other error
├── ConfigError                 invalid_value       an option or argument that cannot work (also a ValueError)
├── AudioError                  bad_audio           audio that cannot be transcribed
│   ├── UnsupportedAudioError   unsupported_audio   not audio, or not decodable
│   └── AudioTooLongError       audio_too_long      longer than a stated limit
├── CheckpointError             bad_checkpoint      weights, tokenizer or configuration that do not fit together
├── HubError                    hub_failed          a model hub that cannot be reached or lacks the model
├── PromptTooLongError          prompt_too_long     hotwords, audio and answer exceed the LLM's context
├── OutOfMemoryError            out_of_memory       one clip that does not fit into memory
├── InternalError               internal_error      a fault of this program, met while it worked on one clip
├── DecodeError                 engine_failed       the engine failed
├── QueueFullError              server_busy         a service whose queue is full
└── ServiceClosedError          shutting_down       a service that takes no more work

A message says what was wrong, the value, and what is allowed. A code never changes. It is the `error_code` of a
transcript, and the `code` in a server's answers.
"""

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

ErrorCode = Literal[
    "failed",
    "invalid_value",
    "bad_audio",
    "unsupported_audio",
    "audio_too_long",
    "bad_checkpoint",
    "hub_failed",
    "prompt_too_long",
    "out_of_memory",
    "internal_error",
    "engine_failed",
    "server_busy",
    "shutting_down",
]
_SHOWN = 5  # names of a list in a message


class ASRError(Exception):
    """Base of all errors raised on purpose by twostage_asr."""

    code: ClassVar[ErrorCode] = "failed"


class ConfigError(ASRError, ValueError):
    """An option or argument that cannot work."""

    code: ClassVar[ErrorCode] = "invalid_value"


class AudioError(ASRError):
    """Audio that cannot be transcribed."""

    code: ClassVar[ErrorCode] = "bad_audio"


class UnsupportedAudioError(AudioError):
    """Bytes that are not audio, or that no decoder here understands."""

    code: ClassVar[ErrorCode] = "unsupported_audio"


class AudioTooLongError(AudioError):
    """Audio longer than a stated limit."""

    code: ClassVar[ErrorCode] = "audio_too_long"


class CheckpointError(ASRError):
    """Weights, tokenizer or configuration that do not fit together."""

    code: ClassVar[ErrorCode] = "bad_checkpoint"


class HubError(ASRError):
    """A model hub that cannot be reached or does not hold what was asked for."""

    code: ClassVar[ErrorCode] = "hub_failed"


class PromptTooLongError(ASRError):
    """Prompt, audio and the allowed answer together exceed the LLM's context."""

    code: ClassVar[ErrorCode] = "prompt_too_long"


class OutOfMemoryError(ASRError):
    """A clip does not fit into the memory that is left, even if it is processed alone."""

    code: ClassVar[ErrorCode] = "out_of_memory"


class InternalError(ASRError):
    """A fault of this program, met while it worked on one clip; the log has the traceback."""

    code: ClassVar[ErrorCode] = "internal_error"


class DecodeError(ASRError):
    """The engine failed; it must be built anew."""

    code: ClassVar[ErrorCode] = "engine_failed"


class QueueFullError(ASRError):
    """A service's queue is full; the caller may try again later."""

    code: ClassVar[ErrorCode] = "server_busy"


class ServiceClosedError(ASRError):
    """A service takes no more work, or was closed before this work was done."""

    code: ClassVar[ErrorCode] = "shutting_down"


def enumerate_names(names: Collection[str]) -> str:
    """The names in their order, for a message, as "a, b, c, d, e and 7 more"."""
    shown = ", ".join(list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def error_of(code: str | None, message: str) -> ASRError:
    """The error for a code; a plain ASRError if the code is unknown, as in the JSON of a later version."""
    kind = next((kind for kind in _kinds(ASRError) if kind.code == code), ASRError)
    return kind(message)


def _kinds(kind: type[ASRError]) -> Iterator[type[ASRError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)
