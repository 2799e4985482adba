"""The model families that can be converted, and which one a checkpoint belongs to."""

from pathlib import Path

from ..engine.errors import CheckpointError
from . import fun_asr_nano
from .config_file import ConfigFile
from .layout import Family
from .wording import enumerate_names

FAMILIES: dict[str, Family] = {family.name: family for family in (fun_asr_nano.FAMILY,)}


def find_family(directory: Path) -> Family:
    """The family whose class the checkpoint's config.yaml names.

    Raises CheckpointError, which lists what was found and what is known, if there is none.
    """
    path = directory / "config.yaml"
    model_class = ConfigFile.read(path).find("model") if path.is_file() else None
    for family in FAMILIES.values():
        if model_class == family.model_class:
            return family
    known = "; ".join(f"{family.model_class} ({family.examples})" for family in FAMILIES.values())
    said = f"its config.yaml says model: {model_class}" if path.is_file() else "it has no config.yaml"
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; a checkpoint directory is needed, as the hubs hold it")
    files = enumerate_names(sorted(entry.name for entry in directory.iterdir())) or "no files"
    raise CheckpointError(f"{directory} is of no known model family: {said}; it holds {files}. Known: {known}")
