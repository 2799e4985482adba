"""What the web page is made of: its files in this package, a note about the model, and samples to try.

{model}/about.json      what the model is, and sentences that one can say to it, if its directory has such a file
serve --samples DIR     audio files that the page offers with one click
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ConfigError
from .failures import first_problem

FOLDER = "page"  # in this package, and in the paths of the page's files
NOTE_NAME = "about.json"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SAMPLE_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".webm", ".mp4", ".aac"})
MAX_SAMPLES = 100


class ModelNote(BaseModel):
    """What a reader of the page should know about the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=100)] = ""
    note: Annotated[str, Field(max_length=2_000)] = ""
    sentences: Annotated[tuple[str, ...], Field(max_length=100)] = ()  # that the model understands

    @classmethod
    def of(cls, model: str) -> Self:
        """The note in the model's directory; an empty one if there is none. Raises ConfigError if it cannot be used."""
        path = Path(model) / NOTE_NAME
        if not path.is_file():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ConfigError(f"{path}: {' '.join(first_problem(error))}") from error


@dataclass(frozen=True, slots=True)
class PageContent:
    """What one server's page says and offers."""

    note: ModelNote = field(default_factory=ModelNote)
    samples: Mapping[str, Path] = field(default_factory=dict)  # by their names on the page


def find_samples(directory: Path) -> dict[str, Path]:
    """The audio files of a directory by name, in order. Raises ConfigError if there are none, or too many."""
    if not directory.is_dir():
        raise ConfigError(f"--samples needs a directory, and {directory} is none")
    found = sorted(path for path in directory.iterdir() if path.suffix.lower() in SAMPLE_SUFFIXES and path.is_file())
    if not 1 <= len(found) <= MAX_SAMPLES:
        suffixes = ", ".join(sorted(SAMPLE_SUFFIXES))
        raise ConfigError(f"{directory} has {len(found)} files with {suffixes}; --samples takes 1 to {MAX_SAMPLES}")
    return {path.name: path for path in found}


def _read_files() -> dict[str, bytes]:
    folder = files(__package__).joinpath(FOLDER)
    return {f"/{FOLDER}/{each.name}": each.read_bytes() for each in folder.iterdir() if each.is_file()}


FILES: Mapping[str, bytes] = _read_files()  # path in the URL -> content
INDEX = FILES[f"/{FOLDER}/index.html"]
