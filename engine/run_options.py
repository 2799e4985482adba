"""TranscribeOptions: the options of one run, checked; and the conversion of the keywords of options.py to them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

from .audio.channels import Channels, check_channels
from .audio.decode import DEFAULT_LIMITS, AudioLimits
from .audio.inputs import AudioInput
from .checks import check_choice, check_options
from .decoder.base import DecodeParams
from .errors import ConfigError
from .families.base import Request
from .options import GenerateOptions, SpeakerOptions
from .speakers.clustering import MAX_SPEAKERS, SpeakerCount
from .vad import RECORDING_SCHEDULE, checked_schedule
from .vad.splitting import DEFAULT_SEGMENTATION, Segmentation

SPEAKER_DETAILS: tuple[Literal["num_speakers", "min_speakers", "max_speakers", "known_speakers"], ...] = (
    "num_speakers",
    "min_speakers",
    "max_speakers",
    "known_speakers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerSettings:
    """How many speakers there are, and the audio of those that are known."""

    count: SpeakerCount = field(default_factory=SpeakerCount)
    known: Mapping[str, Any] = field(default_factory=dict)  # name -> an input, see audio/inputs.py


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeOptions:
    """The options of one run. An input may set some of them for itself."""

    request: Request
    params: DecodeParams
    timestamps: bool = True
    check: bool = True  # check each text against the CTC head, see quality.py
    fallback: Literal["ctc"] | None = None  # "ctc": the CTC head's text replaces one that it contradicts
    batch_size: int = 256  # most clips in one stage 1 batch
    limits: AudioLimits = DEFAULT_LIMITS
    allow_urls: bool = True
    segmentation: Segmentation = DEFAULT_SEGMENTATION
    token_log_probs: bool = False  # put the tokens, with their log probabilities, into the transcript
    channels: Channels = "mix"  # for inputs that do not set it themselves
    salvage: bool = False  # transcribe what can be decoded of a truncated or damaged file
    speakers: SpeakerSettings | None = None  # None: nobody asks who speaks

    def __post_init__(self) -> None:
        check_choice("fallback", self.fallback, (None, "ctc"))
        if self.fallback is not None and not self.check:
            raise ConfigError(f"fallback={self.fallback!r} needs check=True, which finds what to replace")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        check_channels(self.channels)

    @property
    def needs_ctc(self) -> bool:
        return self.timestamps or self.check

    def for_reading(self, item: AudioInput) -> AudioInput:
        """The input, with `channels` and `salvage` of these options unless it sets them itself."""
        channels = self.channels if item.channels is None else item.channels
        salvage = self.salvage if item.salvage is None else item.salvage
        return replace(item, channels=channels, salvage=salvage)


def transcribe_options(**options: Unpack[GenerateOptions]) -> TranscribeOptions:
    """Check the options of `generate` and convert them. Raises ConfigError."""
    check_options(options, GenerateOptions, others=("inputs", "ordered", "progress"))

    def given(*names: str) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name in names}

    schedule = checked_schedule(
        options.get("silence_schedule"), dynamic=options.get("dynamic_silence", True), default=RECORDING_SCHEDULE
    )
    request = Request(
        language=options.get("language") or None,
        hotwords=checked_hotwords(options.get("hotwords")),
        context=options.get("context") or "",
        **given("itn"),
    )
    params = DecodeParams(**given("max_new_tokens", "temperature", "top_p", "repetition_penalty", "seed"))
    vad = options.get("vad", DEFAULT_SEGMENTATION.vad)
    return TranscribeOptions(
        request=request,
        params=params,
        segmentation=Segmentation(
            vad=None if vad is None else str(vad), silence_schedule=schedule, **given("max_segment_s")
        ),
        speakers=speaker_settings(options),
        **given("timestamps", "check", "fallback", "batch_size", "limits", "channels", "salvage"),
    )


def speaker_settings(options: SpeakerOptions) -> SpeakerSettings | None:
    """The settings for these options; None unless they ask for speakers. Raises ConfigError."""
    given = [name for name in SPEAKER_DETAILS if options.get(name) is not None]
    if not options.get("speakers", False):
        if given:
            raise ConfigError(f"{', '.join(given)} need speakers=True")
        return None
    exact, least, most = options.get("num_speakers"), options.get("min_speakers"), options.get("max_speakers")
    if exact is not None and (least is not None or most is not None):
        raise ConfigError("num_speakers says how many there are; min_speakers and max_speakers cannot be given as well")
    least = 1 if least is None else least
    count = SpeakerCount(exact, least, max(MAX_SPEAKERS, least) if most is None else most)
    known = options.get("known_speakers") or {}
    for name in known:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"each name of known_speakers must be a non-empty string, got {name!r}")
    return SpeakerSettings(count=count, known=known)


def checked_hotwords(hotwords: Iterable[str] | None) -> tuple[str, ...]:
    """The hotwords as a tuple; None, as in FunASR, is none. Raises ConfigError unless all are non-empty strings."""
    words = () if hotwords is None else tuple(hotwords)
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise ConfigError(f"each hotword must be a non-empty string, got {word!r}")
    return words
