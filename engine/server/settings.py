"""What a server allows, with defaults and units; checked once."""

from dataclasses import dataclass, field
from pathlib import Path

from ..audio.decode import AudioLimits
from ..errors import ConfigError
from .api_keys import parse_keys, read_keys
from .origins import require_origin

_POSITIVE = (
    *(
        "max_body_bytes",
        "max_json_bytes",
        "max_audio_s",
        "max_samples",
        "max_decoding_s",
        "max_new_tokens",
        "max_prompt_bytes",
        "max_requests",
        "max_waiting",
        "request_timeout_s",
    ),
    *("max_requests_per_client", "max_sessions_per_client"),
    *("max_sessions", "max_message_bytes", "max_session_bytes", "session_idle_s", "session_timeout_s"),
    *("max_connections", "max_connections_per_address", "max_head_bytes", "header_timeout_s"),
    *("max_upload_bytes", "body_grace_s", "max_json_values"),
)
_NOT_NEGATIVE = ("min_body_rate", "drain_delay_s", "drain_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Limits and permissions of one server."""

    model_name: str = "fun-asr-nano"  # what /v1/models calls the model
    language: str | None = None  # where a request names none
    hotwords: tuple[str, ...] = ()  # where a request gives none
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # KEY or NAME:KEY; one is needed if there are any
    api_key_file: Path | None = None  # holds them in place of api_keys, one a line, and is read again when it changes
    allowed_hosts: tuple[str, ...] = ()  # names that this server answers to, beside localhost and addresses; "*": any
    cors_origins: tuple[str, ...] = ()  # of web pages from elsewhere that may call; "*": any; "null": from a disk
    url_hosts: tuple[str, ...] = ()  # that audio may be fetched from on a client's behalf
    strict_fields: bool = False  # a request's field that nobody knows is an error, not ignored

    max_connections: int = 2048  # open; at the limit one that is idle makes room for a new one
    max_connections_per_address: int = 1024  # so many that a proxy in front can have its requests and sessions
    max_head_bytes: int = 32 << 10  # of a request's line and headers
    header_timeout_s: float = 20.0  # until they have come

    max_body_bytes: int = 256 << 20  # of one request
    max_upload_bytes: int = 1 << 30  # of all bodies at work, in memory or on the disk; more are answered 429
    body_grace_s: float = 20.0  # that a body may take, besides its bytes' share of min_body_rate
    min_body_rate: int = 500  # bytes a second; 0: any
    max_json_values: int = 10_000  # of one body: parsing and checking more holds up everybody else
    max_json_bytes: int = 16 << 20  # of one that is JSON: parsing it holds up everybody else, for 30 ms
    max_audio_s: float = 3 * 3600.0  # of one request or session
    max_samples: int = 1 << 30  # of all channels of one request, decoded; 3 hours of 48 kHz stereo have 1.0e9
    max_decoding_s: float = 120.0  # of a processor, for one request
    min_sample_rate: int = 4_000  # Hz
    max_sample_rate: int = 384_000  # Hz
    max_new_tokens: int = 512  # of one answer
    max_prompt_bytes: int = 16 << 10  # of UTF-8: hotwords, context and language of one request
    max_requests: int = 256  # under way, uploads included; more are answered 429
    max_requests_per_client: int | None = None  # likewise, of one key or address; None: a quarter of max_requests
    max_waiting: int = 512  # clips not yet encoded; more are answered 429
    request_timeout_s: float = 600.0  # from the first byte to the last
    retry_after_s: int = 1  # what a 429 or 503 suggests

    max_sessions: int = 256  # WebSockets at a time
    max_sessions_per_client: int | None = None  # of one key or address; None: a quarter of max_sessions
    max_message_bytes: int = 10 << 20  # of one WebSocket message
    max_session_bytes: int = 1 << 30  # that all sessions keep of audio and messages; beyond it the largest is ended
    session_idle_s: float = 60.0  # without a message
    session_timeout_s: float = 4 * 3600.0

    drain_delay_s: float = 0.0  # after SIGTERM, until nothing new is taken: balancers need to see /ready first
    drain_s: float = 30.0  # that requests and sessions get to end then

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, got {value}")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be 0 or positive, got {getattr(self, name)}")
        parse_keys(self.api_keys)
        if self.api_key_file is not None:
            read_keys(self.api_key_file)
        for origin in self.cors_origins:
            require_origin(origin)

    @property
    def audio_limits(self) -> AudioLimits:
        """For reading what clients send."""
        return AudioLimits(
            max_duration_s=self.max_audio_s,
            max_bytes=self.max_body_bytes,
            max_samples=self.max_samples,
            max_cpu_s=self.max_decoding_s,
            min_sample_rate=self.min_sample_rate,
            max_sample_rate=self.max_sample_rate,
        )
