"""EngineManifest: engine.json, which the converter writes and the engine relies on.

A converted model is a directory:
    engine.json             this file
    acoustic.safetensors    encoder, adaptor and, where the checkpoint has them, the CTC tensors
    ctc.tiktoken            the CTC head's vocabulary, where there is a CTC head
    llm/                    the LLM as an ordinary Hugging Face directory
"""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import CheckpointError

MANIFEST_FORMAT = 2
MANIFEST_NAME = "engine.json"
ACOUSTIC_NAME = "acoustic.safetensors"
CTC_VOCABULARY_NAME = "ctc.tiktoken"
LLM_DIR_NAME = "llm"


class SourceFile(BaseModel):
    """One file of the checkpoint that was converted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int  # bytes
    mtime_ns: int
    sha256: str


class FrameClock(BaseModel):
    """Encoder frames -> seconds: the only place that knows the frame rate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame_shift_s: float = 0.010
    lfr_m: int = 7
    lfr_n: int = 6

    @property
    def frame_s(self) -> float:
        """Seconds between two encoder frames."""
        return self.lfr_n * self.frame_shift_s


class LLMInfo(BaseModel):
    """The facts about the LLM that prompts and decoders need."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]
    tied: bool  # whether lm_head shares the weights of embed_tokens


class EngineManifest(BaseModel):
    """The content of engine.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = MANIFEST_FORMAT
    family: str
    dtype: str  # the converter's option: "keep", "bf16", "fp16" or "fp32"
    acoustic: dict[str, Any]  # dimensions of stage 1, in the form that the model's family defines
    frame_clock: FrameClock | None  # None if the family does not time words by encoder frames
    llm: LLMInfo
    missing: dict[str, str]  # component -> why the checkpoint lacks it, e.g. {"ctc": "..."}
    notes: tuple[str, ...]  # decisions of the converter, as sentences
    source: dict[str, SourceFile]  # path relative to the checkpoint -> size, time and digest
    versions: dict[str, str]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read engine.json. Raises CheckpointError if it is absent, unreadable, or has another format."""
        path = directory / MANIFEST_NAME
        try:
            manifest = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise CheckpointError(f"{path} is not a readable engine.json: {error}") from error
        if manifest.format != MANIFEST_FORMAT:
            raise CheckpointError(f"{path} has format {manifest.format}; this version reads {MANIFEST_FORMAT}")
        return manifest

    def write(self, directory: Path) -> None:
        (directory / MANIFEST_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
