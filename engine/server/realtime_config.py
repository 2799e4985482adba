"""The session configuration of OpenAI's Realtime API, in its current form and in that of its beta.

    today                 {"type": "transcription" or "realtime", "audio": {"input": {...}}, "include": [...]}
    the beta, to 2025     {"input_audio_format": "pcm16", "input_audio_transcription": {...}, "turn_detection": {...}}

Unknown keys are ignored and listed by unknown_keys(), because clients of newer or other servers send keys that this one
does not know, and the known ones must apply all the same. Keys that OpenAI documents and that have no meaning for a
recogniser (voices, tools, noise reduction) are ignored and not listed.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..vad import SegmentRules
from .failures import Refusal, first_problem
from .fields import unknown_fields

OPENAI_RATE = 24_000  # Hz, of PCM without a stated rate
G711_RATE = 8_000  # Hz
LOGPROBS = "item.input_audio_transcription.logprobs"
# Eagerness of a semantic VAD -> silence (ms) that ends a turn, since our VAD detects pauses only. None: the default.
EAGERNESS_MS = {"low": 2000.0, "medium": None, "auto": None, "high": 500.0}
_WITHOUT_MEANING = frozenset(
    (
        *("instructions", "output_modalities", "modalities", "voice", "output_audio_format", "tools", "tool_choice"),
        *("temperature", "max_output_tokens", "max_response_output_tokens", "tracing", "truncation", "prompt", "speed"),
        *("model", "id", "object", "expires_at", "client_secret", "parallel_tool_calls", "reasoning"),
        "output",  # of audio: how a voice shall sound
        "noise_reduction",
        *("create_response", "interrupt_response", "idle_timeout_ms"),  # of turn detection
        "delay",  # of transcription: how long a model may wait for more audio
    )
)
_BETA = {  # key of the beta -> key of audio.input
    "input_audio_format": "format",
    "input_audio_transcription": "transcription",
    "turn_detection": "turn_detection",
    "input_audio_noise_reduction": "noise_reduction",
}
_BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}


class _Open(BaseModel):
    """An object that may have any keys; `unknown_keys` finds the unknown ones. Its nulls mean something, unlike those
    of fields.Open: without turn detection, `turn_detection` is null."""

    model_config = ConfigDict(extra="allow")


class AudioFormat(_Open):
    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Annotated[int | None, Field(ge=8_000, le=48_000)] = None

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""
        return G711_RATE if self.type != "audio/pcm" else self.rate or OPENAI_RATE


class Transcription(_Open):
    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    keywords: list[str] | None = None
    spk: bool | None = None  # ours: say who speaks


class TurnDetection(_Open):
    """How speech is cut into turns. The rules of live sessions apply to what is left out."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: Annotated[float | None, Field(gt=0, lt=1)] = None  # probability of speech
    silence_duration_ms: Annotated[float | None, Field(gt=0)] = None
    prefix_padding_ms: Annotated[float | None, Field(ge=0)] = None
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"

    def rules(self, usual: SegmentRules) -> SegmentRules:
        """The `usual` rules, changed by what the client asks for. Padding is limited to the rules' maximum."""
        silence_ms = self.silence_duration_ms or EAGERNESS_MS[self.eagerness]
        if silence_ms is not None:
            usual = usual.with_silence(((inf, silence_ms),))
        if self.prefix_padding_ms is not None:
            usual = replace(usual, padding_s=min(self.prefix_padding_ms / 1000, SegmentRules.MAX_PADDING_S))
        return usual if self.threshold is None else replace(usual, threshold=self.threshold)


class AudioIn(_Open):
    format: AudioFormat = AudioFormat()
    transcription: Transcription | None = Transcription()
    turn_detection: TurnDetection | None = TurnDetection()


class Audio(_Open):
    input: AudioIn = AudioIn()


class SessionConfig(_Open):
    """What one client asks of its session."""

    type: Literal["transcription", "realtime"] = "transcription"
    audio: Audio = Audio()
    include: list[str] | None = None

    @classmethod
    def of(cls, session: object) -> "SessionConfig":
        """Parse either form. Raises Refusal for a known key with an invalid value."""
        if not isinstance(session, Mapping):
            message = f"session must be an object, got {type(session).__name__}"
            raise Refusal(400, message, code="invalid_value", param="session")
        try:
            return cls.model_validate(_today(session))
        except ValidationError as error:
            place, problem = first_problem(error, "session")
            raise Refusal(400, f"{place}: {problem}", code="invalid_value", param=place) from error

    @property
    def transcription(self) -> Transcription:
        return self.audio.input.transcription or Transcription()

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    def unknown_keys(self) -> list[str]:
        """Dotted names of the unknown keys."""
        return [name for name in unknown_fields(self, "session.") if name.rpartition(".")[2] not in _WITHOUT_MEANING]


def _today(session: Mapping[str, Any]) -> dict[str, Any]:
    """The beta's form -> the current form."""
    given = {_BETA[key]: value for key, value in session.items() if key in _BETA}
    if not given:
        return dict(session)
    if isinstance(given.get("format"), str):
        given["format"] = {"type": _BETA_FORMATS.get(given["format"], given["format"])}
    kept = {key: value for key, value in session.items() if key not in _BETA}
    return {**kept, "audio": {"input": given}}
