"""One clip on its way through both stages, and what becomes of it when it is a part of something longer."""

from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import Tensor

from .audio.decode import Waveform
from .audio.inputs import AudioInput
from .families.base import EncodedBatch, Request
from .prompt import EmbeddedPrompt
from .run_options import TranscribeOptions
from .segments import Part, join_parts
from .transcript import Transcript

Result: TypeAlias = tuple[int, Transcript]  # a clip's or an input's number, and what became of it


@dataclass(slots=True, eq=False)
class Clip:
    """One input on its way, or one segment of a long one."""

    index: int  # what its transcript is yielded with
    item: AudioInput
    waveform: Waveform | None  # until it is encoded, or checked
    duration: float  # s
    num_frames: int  # what encoding it costs, see AcousticModel.num_frames
    request: Request
    options: TranscribeOptions
    prompt: EmbeddedPrompt
    answer_ids: tuple[int, ...] = ()  # what the answer is made to begin with; a part of the prompt
    is_followed: bool = False  # its text is looked at while it is written
    is_speech: bool = False  # a VAD has heard some
    is_second_try: bool = False  # its first text went round in circles
    before: tuple[Part, ...] = ()  # of the same input, transcribed before this rest of it
    start: float = 0.0  # s, of this rest
    audio_embeds: Tensor | None = None
    ctc_hidden: Tensor | None = None
    submitted: float = 0.0  # time.perf_counter()

    def __str__(self) -> str:
        """What errors and the log call it."""
        return f"{self.item.key!r} ({self.duration:.1f} s of audio)"


@dataclass(slots=True, eq=False)
class Encoding:
    """A batch in stage 1."""

    clips: list[Clip]
    encoded: EncodedBatch | None  # queued on the GPU; None where that failed, and is to be tried again

    @property
    def is_done(self) -> bool:
        """Whether its results can be had without waiting for what the GPU is doing."""
        return self.encoded is None or self.encoded.is_done


def request_of(item: AudioInput, default: Request) -> Request:
    """What an input asks for itself, and else what the run asks for. Raises ConfigError."""
    own = {name: getattr(item, name) for name in ("language", "hotwords", "itn", "context")}
    asked = {name: value for name, value in own.items() if value is not None}
    return replace(default, **asked) if asked else default


def with_before(clip: Clip, transcript: Transcript) -> Transcript:
    """The transcript of a clip after what was transcribed of the same input before."""
    if not clip.before:
        return transcript
    parts = (*clip.before, Part(clip.start, transcript))
    duration = clip.start + clip.duration
    return join_parts(clip.item.key, parts, duration=duration, language=clip.request.language)
