"""The interface of a model family: how it builds stage 1, its prompt, and its answer.

A family is one file here, its modules in `encoders/`, and its table of tensor names in `convert/`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..acoustic.base import AcousticModel, StageOneOptions
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
