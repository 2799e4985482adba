"""The interfaces of a model family: AcousticModel (stage 1) and ModelFamily (prompt and answer).

A family is one file here, its modules in `encoders/`, and its table of tensor names in `convert/`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..checks import check_text
from ..errors import ConfigError
from ..manifest import EngineManifest
from ..prompt import PromptText
from ..words.aligner import WordAligner
from .languages import is_auto


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How to transcribe one clip. Raises ConfigError for texts that are not valid Unicode."""

    language: str | None = None  # a tag, code or name, see languages.py; with None, "" or "auto" the model detects it
    hotwords: tuple[str, ...] = ()
    itn: bool = True  # inverse text normalisation: write numbers, dates and amounts in digits ("25")
    context: str = ""  # free text about the topic of the speech

    def __post_init__(self) -> None:
        if self.language is not None:
            check_text("language", self.language)
        for index, word in enumerate(self.hotwords):
            check_text(f"hotwords[{index}]", word)
        check_text("context", self.context)

    def refuse(self, family: str, *names: str) -> None:
        """Raises ConfigError if one of the named fields is set, because the family's prompt has no place for them."""
        default = Request(language=self.language if is_auto(self.language) else None)
        for name in names:
            if getattr(self, name) != getattr(default, name):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, but the prompt of {family} has no place for it; leave it out"
                )


@dataclass(frozen=True, slots=True)
class Answer:
    """The parsed answer of the LLM."""

    text: str
    language: str | None  # as requested, or as detected by a model that names the language


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUtterance:
    """Stage 1's result for one clip."""

    audio_embeds: Tensor  # (A, hidden_size) on the CPU, in the LLM's dtype
    ctc_hidden: Tensor | None  # (T, D) hidden states of the CTC head on stage 1's device; None unless requested


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedBatch:
    """Stage 1's result for B clips, padded. A GPU may still be computing it; `utterances` waits for that."""

    audio_embeds: Tensor  # (B, A, hidden_size) on the CPU
    audio_lens: list[int]  # rows of each clip in `audio_embeds`
    ctc_hidden: Tensor | None  # (B, T, D) on stage 1's device
    encoder_lens: list[int]  # frames of each clip in `ctc_hidden`
    done: torch.cuda.Event | None = None  # completes when the GPU has written `audio_embeds`; None on other devices

    @property
    def is_done(self) -> bool:
        """Whether `utterances` returns without waiting."""
        return self.done is None or bool(self.done.query())  # type: ignore[no-untyped-call]

    def utterances(self) -> list[EncodedUtterance]:
        """Wait for the result, and return views of each clip's rows without padding."""
        if self.done is not None:
            self.done.synchronize()
        hidden: Iterable[Tensor | None] = repeat(None) if self.ctc_hidden is None else self.ctc_hidden
        rows = zip(self.audio_embeds, self.audio_lens, hidden, self.encoder_lens, strict=False)
        return [EncodedUtterance(embeds[:a], None if h is None else h[:t]) for embeds, a, h, t in rows]


@dataclass(frozen=True, slots=True)
class StageOneOptions:
    """Where and how stage 1 runs."""

    device: torch.device
    dtype: torch.dtype  # of the encoder's weights
    embeds_dtype: torch.dtype  # of the embeddings for the LLM
    dither: float = 0.0  # standard deviation of the noise added to the samples, on the scale of 16-bit integers
    word_processes: int = 0  # worker processes that find word times


class AcousticModel(Protocol):
    """Stage 1: waveforms -> embeddings."""

    def num_frames(self, num_samples: int) -> int:
        """The cost of encoding a clip, in frames of 60 ms."""

    def num_audio_tokens(self, num_samples: int) -> int:
        """The number of LLM positions that a clip takes."""

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        """Encode one batch of (N,) float32 waveforms at 16 kHz; on a GPU the work is queued, not awaited.

        `with_ctc` requests `ctc_hidden`, if the checkpoint has a CTC head.
        """

    def prepare(self) -> None:
        """Do what makes later batches faster, while another thread encodes; called once, if at all."""

    def further_steps(self) -> Sequence[Callable[[], None]]:
        """What spares the first batch of each usual size a wait; done after `prepare`, while another thread encodes."""


class ModelFamily(Protocol):
    """What the engine needs to know about one family of checkpoints."""

    name: str
    languages: tuple[str, ...]  # codes, see languages.py, of the languages that may be requested; () if none may
    best_length_s: float  # longer audio is transcribed less accurately in one pass

    def build_acoustic_model(
        self, engine_dir: Path, manifest: EngineManifest, options: StageOneOptions
    ) -> tuple[AcousticModel, WordAligner | None]:
        """Load stage 1 strictly, and a WordAligner if the checkpoint has a CTC head. Raises CheckpointError."""

    def prompt_text(self, request: Request) -> PromptText:
        """Build the prompt. Raises ConfigError for an unknown language or an option that has no place in the prompt."""

    def parse_answer(self, answer: str, request: Request) -> Answer:
        """The LLM's answer, without special tokens -> text and language."""
