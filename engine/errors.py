"""Every error that users meet.

ASRError
├── ConfigError            an option or argument that cannot work (also a ValueError)
├── AudioError             audio that cannot be transcribed
│   ├── UnsupportedAudioError   not audio, or not decodable
│   └── AudioTooLongError       longer than a stated limit
├── CheckpointError        weights, tokenizer or configuration that do not fit together
├── HubError               a model hub that did not deliver
├── PromptTooLongError     hotwords, audio and answer exceed the LLM's context
├── OutOfMemoryError       one clip that does not fit into memory
├── InternalError          a fault of this program, met while it worked on one clip
├── DecodeError            the engine failed
├── QueueFullError         a service has as much waiting as it takes
└── ServiceClosedError     a service that takes no more work

A message says what was wrong, the value, and what is allowed.
"""


class ASRError(Exception):
    """Base of all errors raised on purpose by twostage_asr."""


class ConfigError(ASRError, ValueError):
    """An option or argument that cannot work."""


class AudioError(ASRError):
    """Audio that cannot be transcribed."""


class UnsupportedAudioError(AudioError):
    """Bytes that are not audio, or that no decoder here understands."""


class AudioTooLongError(AudioError):
    """Audio longer than a stated limit."""


class CheckpointError(ASRError):
    """Weights, tokenizer or configuration that do not fit together."""


class HubError(ASRError):
    """A model hub that cannot be reached or does not hold what was asked for."""


class PromptTooLongError(ASRError):
    """Prompt, audio and the allowed answer together exceed the LLM's context."""


class OutOfMemoryError(ASRError):
    """One clip does not fit into the memory that is left, also when it is worked on alone."""


class InternalError(ASRError):
    """A fault of this program, met while it worked on one clip; the log has the traceback."""


class DecodeError(ASRError):
    """The engine failed; it must be built anew."""


class QueueFullError(ASRError):
    """A service has as much work waiting as it takes; the same may be asked again later."""


class ServiceClosedError(ASRError):
    """A service that takes no more work, or dropped this when it was closed."""
