"""Clip, the pipeline's unit of work: a short input, a segment of a long one, or an end that a clip's text left out."""

from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import Tensor

from .acoustic.base import EncodedBatch
from .audio.decode import Waveform
from .audio.inputs import AudioInput
from .families.base import Request
from .prompt import EmbeddedPrompt
from .run_options import TranscribeOptions
from .segments import Part, join_parts
from .transcript import Transcript

Result: TypeAlias = tuple[int, Transcript]  # number of a clip or index of an input, and its transcript


@dataclass(slots=True, eq=False)
class Clip:
    """One clip and its state in the pipeline."""

    index: int  # number that its transcript is yielded with
    item: AudioInput
    waveform: Waveform | None  # (N,) float32, 16 kHz; None once it is encoded and no later step needs it
    duration: float  # s
    num_frames: int  # encoder frames of 60 ms, the cost of encoding it; see AcousticModel.num_frames
    request: Request
    options: TranscribeOptions
    prompt: EmbeddedPrompt
    answer_ids: tuple[int, ...] = ()  # tokens that the answer is made to begin with; the prompt ends with them
    is_followed: bool = False  # its partial texts are asked for while it is decoded
    is_speech: bool = False  # a VAD has cut it out as speech
    draft: str = ""  # a text that the answer is expected to be like
    is_second_try: bool = False  # its first text looped
    before: tuple[Part, ...] = ()  # if it is the rest of a clip: what is already transcribed of that clip
    start: float = 0.0  # s, of that rest, in the clip
    audio_embeds: Tensor | None = None  # (A, hidden_size), once it is encoded
    ctc_hidden: Tensor | None = None  # (T, D), once it is encoded, if asked for
    submitted: float = 0.0  # time.perf_counter() at which stage 2 took it

    def __str__(self) -> str:
        """Its name in errors and in the log."""
        return f"{self.item.key!r} ({self.duration:.1f} s of audio)"


@dataclass(slots=True, eq=False)
class Encoding:
    """A batch in stage 1."""

    clips: list[Clip]
    encoded: EncodedBatch | None  # None if stage 1 could not be started on it; Pipeline.submit() tries again

    @property
    def is_done(self) -> bool:
        """Whether its results are there, so that reading them does not wait for the GPU."""
        return self.encoded is None or self.encoded.is_done


def request_of(item: AudioInput, default: Request) -> Request:
    """The request of one input: its own fields where it sets them, else the run's. Raises ConfigError."""
    own = {name: getattr(item, name) for name in ("language", "hotwords", "itn", "context")}
    asked = {name: value for name, value in own.items() if value is not None}
    return replace(default, **asked) if asked else default


def with_before(clip: Clip, transcript: Transcript) -> Transcript:
    """The transcript of a clip, joined to what was already transcribed of the same clip."""
    if not clip.before:
        return transcript
    parts = (*clip.before, Part(clip.start, transcript))
    duration = clip.start + clip.duration
    return join_parts(clip.item.key, parts, duration=duration, language=clip.request.language)
