"""The seams of a model family: how it hears (AcousticModel) and how it is asked (ModelFamily).

A family is one file here, its modules in `encoders/`, and its name table in `convert/`.
"""

from collections.abc import Iterable, Sequence
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
    """How one clip shall be transcribed. Raises ConfigError for texts that hold what is no character."""

    language: str | None = None  # a tag, code or name, see languages.py; None, "" or "auto" leaves it to the model
    hotwords: tuple[str, ...] = ()
    itn: bool = True  # numbers, dates and amounts as they are written ("25"), not as they are spoken
    context: str = ""  # free text that the speech is about

    def __post_init__(self) -> None:
        if self.language is not None:
            check_text("language", self.language)
        for index, word in enumerate(self.hotwords):
            check_text(f"hotwords[{index}]", word)
        check_text("context", self.context)

    def refuse(self, family: str, *names: str) -> None:
        """Raises ConfigError if one of the fields is set, since the family's prompt has no place for it."""
        default = Request(language=self.language if is_auto(self.language) else None)
        for name in names:
            if getattr(self, name) != getattr(default, name):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, but the prompt of {family} has no place for it; leave it out"
                )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the LLM's answer says."""

    text: str
    language: str | None  # as it was asked for or, where the model names one, heard


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUtterance:
    """Stage 1's result for one clip."""

    audio_embeds: Tensor  # (A, hidden_size) on the CPU, in the LLM's dtype
    ctc_hidden: Tensor | None  # (T, D) on stage 1's device, one frame per encoder frame; None unless asked for


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedBatch:
    """Stage 1's result for B clips, padded. A GPU may still be at work on it: `utterances` waits."""

    audio_embeds: Tensor  # (B, A, hidden_size) on the CPU
    audio_lens: list[int]
    ctc_hidden: Tensor | None  # (B, T, D)
    encoder_lens: list[int]
    done: torch.cuda.Event | None = None  # when the GPU has written audio_embeds

    @property
    def is_done(self) -> bool:
        """Whether `utterances` need not wait."""
        return self.done is None or bool(self.done.query())  # type: ignore[no-untyped-call]

    def utterances(self) -> list[EncodedUtterance]:
        """Views of each clip's own rows."""
        if self.done is not None:
            self.done.synchronize()
        hidden: Iterable[Tensor | None] = repeat(None) if self.ctc_hidden is None else self.ctc_hidden
        rows = zip(self.audio_embeds, self.audio_lens, hidden, self.encoder_lens, strict=False)
        return [EncodedUtterance(embeds[:a], None if h is None else h[:t]) for embeds, a, h, t in rows]


@dataclass(frozen=True, slots=True)
class StageOneOptions:
    """How stage 1 computes."""

    device: torch.device
    dtype: torch.dtype  # of the encoder's weights
    embeds_dtype: torch.dtype  # of what the LLM receives
    dither: float = 0.0  # standard deviation of the noise added to 16-bit samples
    word_processes: int = 0  # that time words beside this one


class AcousticModel(Protocol):
    """Stage 1: waveforms -> embeddings."""

    def num_frames(self, num_samples: int) -> int:
        """What encoding a clip costs, in frames of 60 ms."""

    def num_audio_tokens(self, num_samples: int) -> int:
        """LLM positions that a clip will take."""

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        """Encode one batch of (N,) float32 waveforms, 16 kHz. On a GPU this returns while the work is still queued."""


class ModelFamily(Protocol):
    """What the engine must know of one family of checkpoints."""

    name: str
    languages: tuple[str, ...]  # codes, see languages.py, of those that can be asked for; () where none can
    best_length_s: float  # longer audio is heard less well in one pass

    def build_acoustic_model(
        self, engine_dir: Path, manifest: EngineManifest, options: StageOneOptions
    ) -> tuple[AcousticModel, WordAligner | None]:
        """Load stage 1, strictly, and what finds word times, where the checkpoint has it."""

    def prompt_text(self, request: Request) -> PromptText:
        """The family's one prompt. Raises ConfigError for what it does not know or has no place for."""

    def parse_answer(self, answer: str, request: Request) -> Answer:
        """What the LLM wrote, special tokens left out -> text and language."""
