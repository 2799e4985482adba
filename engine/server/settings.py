"""ServerSettings: a server's limits and permissions, with defaults and units, checked when they are made."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..audio.decode import AudioLimits
from ..errors import ConfigError
from .api_keys import parse_keys, read_keys
from .origins import require_origin
from .page_content import PageContent

if TYPE_CHECKING:  # see front_ends.py
    from ..speakers.enrolment import KnownSpeakers

_MAY_BE_ZERO = ("min_body_rate", "retry_after_s", "drain_delay_s", "drain_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Limits and permissions of one server."""

    model_name: str = "fun-asr-nano"  # what /v1/models calls the model
    language: str | None = None  # default for requests that name none
    hotwords: tuple[str, ...] = ()  # default for requests that give none
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # KEY or NAME:KEY; clients need one if there are any
    api_key_file: Path | None = None  # replaces api_keys; one key per line; read again when it changes
    allowed_hosts: tuple[str, ...] = ()  # host names of this server, besides localhost and IP addresses; "*": any
    cors_origins: tuple[str, ...] = ()  # origins of web pages that may call it; "*": any; "null": pages from a disk
    url_hosts: tuple[str, ...] = ()  # hosts from which audio may be fetched on a client's behalf
    names_speakers: bool = False  # FunASR's WebSockets say who speaks, unless a client says SPK:false
    known_speakers: "KnownSpeakers | None" = None  # where a request or session that asks who speaks names none itself
    page: PageContent = field(default_factory=PageContent)  # of the web page at /
    strict_fields: bool = False  # unknown fields of a request are errors instead of being ignored

    max_connections: int = 2048  # open at a time; at the limit, a new one replaces an idle one
    max_connections_per_address: int = 1024  # enough for all requests and sessions of a proxy in front
    max_head_bytes: int = 32 << 10  # of a request's line and headers
    header_timeout_s: float = 20.0  # for a client to send them

    max_body_bytes: int = 256 << 20  # of one request
    max_upload_bytes: int = 1 << 30  # of all bodies under way, in memory or on the disk; more are answered 429
    body_grace_s: float = 20.0  # time that a body may take in addition to num_bytes / min_body_rate
    min_body_rate: int = 500  # bytes per second; 0: any
    max_json_values: int = 10_000  # of one body; parsing and checking more would delay all other requests
    max_json_bytes: int = 16 << 20  # of one JSON body; parsing it delays all other requests by 30 ms
    max_audio_s: float = 3 * 3600.0  # of one request or session
    max_samples: int = 1 << 30  # decoded, of all channels of one request; 3 hours of 48 kHz stereo have 1.0e9
    max_decoding_s: float = 120.0  # CPU time for decoding the audio of one request
    min_sample_rate: int = 4_000  # Hz
    max_sample_rate: int = 384_000  # Hz
    max_new_tokens: int = 512  # of one answer
    max_prompt_bytes: int = 16 << 10  # in UTF-8: hotwords, context and language of one request
    max_requests: int = 256  # under way, uploads included; more are answered 429
    max_requests_per_client: int | None = None  # the same for one key or address; None: a quarter of max_requests
    max_waiting: int = 512  # clips that are not encoded yet; more are answered 429
    request_timeout_s: float = 600.0  # from the first byte of the request to the last of the answer
    retry_after_s: int = 1  # Retry-After of a 429 or 503

    max_sessions: int = 256  # WebSockets at a time
    max_sessions_per_client: int | None = None  # the same for one key or address; None: a quarter of max_sessions
    max_message_bytes: int = 10 << 20  # of one WebSocket message
    max_session_bytes: int = 1 << 30  # audio and messages of all sessions; beyond it the largest session is ended
    session_idle_s: float = 60.0  # longest time without a message
    session_timeout_s: float = 4 * 3600.0  # longest session

    drain_delay_s: float = 0.0  # from SIGTERM to the drain, so that load balancers see /ready answer 503 first
    drain_s: float = 30.0  # longest time for requests and sessions to end once the drain has begun

    def __post_init__(self) -> None:
        for name, value in ((each.name, getattr(self, each.name)) for each in fields(self)):
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                if name not in _MAY_BE_ZERO:
                    raise ConfigError(f"{name} must be positive, got {value}")
                if value != 0:
                    raise ConfigError(f"{name} must be 0 or positive, got {value}")
        parse_keys(self.api_keys)
        if self.api_key_file is not None:
            read_keys(self.api_key_file)
        for origin in self.cors_origins:
            require_origin(origin)

    @property
    def audio_limits(self) -> AudioLimits:
        """The limits for reading clients' audio."""
        return AudioLimits(
            max_duration_s=self.max_audio_s,
            max_bytes=self.max_body_bytes,
            max_samples=self.max_samples,
            max_cpu_s=self.max_decoding_s,
            min_sample_rate=self.min_sample_rate,
            max_sample_rate=self.max_sample_rate,
        )
