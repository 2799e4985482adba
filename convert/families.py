"""The model families that can be converted, and how to find the family of a checkpoint."""

from collections.abc import Collection
from pathlib import Path

from ..engine.errors import CheckpointError, enumerate_names
from ..engine.hub.model_files import RepositoryFiles
from ..engine.manifest import ACOUSTIC_NAME, CTC_VOCABULARY_NAME, LLM_DIR_NAME, MANIFEST_NAME
from . import fun_asr_nano, glm_asr, llm_asr, qwen3_asr
from .config_file import CONFIG_NAME, CONFIG_YAML, ConfigFile, model_class, model_type
from .layout import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(fun_asr_nano.FAMILY, fun_asr_nano.MULTILINGUAL, qwen3_asr.FAMILY, qwen3_asr.ALIGNER),
        *(glm_asr.FAMILY, llm_asr.FAMILY),
    )
}
TELLING_FILES = (MANIFEST_NAME, CONFIG_YAML, CONFIG_NAME)  # a few kilobytes that identify a repository on a hub
CONVERSION_FILES = RepositoryFiles(  # of a repository with a converted model
    always=(MANIFEST_NAME, ACOUSTIC_NAME, CTC_VOCABULARY_NAME, f"{LLM_DIR_NAME}/*"), weights=()
)
# Classes of FunASR without an LLM, which are refused at once: prefix of `model:` in config.yaml -> kind of model.
WITHOUT_LLM = {
    "Paraformer": "a non-autoregressive recogniser",
    "BiCifParaformer": "a non-autoregressive recogniser",
    "ContextualParaformer": "a non-autoregressive recogniser",
    "SeacoParaformer": "a non-autoregressive recogniser",
    "SenseVoice": "a CTC recogniser",
    "CTTransformer": "a punctuation model",
    "Conformer": "an attention and CTC recogniser",
    "Transformer": "an attention and CTC recogniser",
    "UniASR": "an attention recogniser",
    "Whisper": "an encoder-decoder recogniser",
    "FsmnVAD": "a voice activity detector",
    "CAMPPlus": "a speaker model",
}


def find_family(directory: Path) -> Family:
    """The family of a checkpoint.

    Raises CheckpointError, which lists what was found and what is known, if it belongs to none.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; a checkpoint directory is needed, as the hubs hold it")
    return _recognised(directory, str(directory), sorted(entry.name for entry in directory.iterdir()))


def needed_files(directory: Path, *, title: str, names: Collection[str]) -> RepositoryFiles:
    """The files needed of a repository on a hub. `directory` holds only its TELLING_FILES.

    Raises CheckpointError, which names `title` and the `names` of all files, if the repository holds no known model.
    """
    return CONVERSION_FILES if MANIFEST_NAME in names else _recognised(directory, title, names).files


def _recognised(directory: Path, title: str, names: Collection[str]) -> Family:
    for family in FAMILIES.values():
        if family.recognises(directory):
            return family
    named = model_class(directory)
    for prefix, kind in WITHOUT_LLM.items():
        if str(named).startswith(prefix):
            raise CheckpointError(
                f"{title} is a {named}, {kind} without an LLM, which is what this engine runs; "
                "use funasr.AutoModel for it"
            )
    path = directory / CONFIG_YAML
    hint = ConfigFile.read(path).hint if path.is_file() else ""
    known = "; ".join(f"{', '.join(family.examples)} ({family.sign})" for family in FAMILIES.values())
    said = [f"{name} says {value!r}" for name, value in _said(directory, named) if value is not None]
    raise CheckpointError(
        f"{title} is of no known model family: {' and '.join(said) or 'no configuration names a model'}; "
        f"it holds {enumerate_names(names) or 'no files'}{hint}. Known: {known}"
    )


def _said(directory: Path, named: object) -> list[tuple[str, object]]:
    return [(f"model in {CONFIG_YAML}", named), (f"model_type in {CONFIG_NAME}", model_type(directory))]
