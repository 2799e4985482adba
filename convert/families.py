"""The model families that can be converted, and which one a checkpoint belongs to."""

from pathlib import Path

from ..engine.errors import CheckpointError
from . import fun_asr_nano, glm_asr, llm_asr, qwen3_asr
from .config_file import CONFIG_NAME, CONFIG_YAML, ConfigFile, model_class, model_type
from .layout import Family
from .wording import enumerate_names

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (fun_asr_nano.FAMILY, qwen3_asr.FAMILY, qwen3_asr.ALIGNER, glm_asr.FAMILY, llm_asr.FAMILY)
}
# Classes of FunASR that nobody should wait for: prefix of `model:` in config.yaml -> what such a model is.
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
    """The family that a checkpoint belongs to.

    Raises CheckpointError, which lists what was found and what is known, if there is none.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; a checkpoint directory is needed, as the hubs hold it")
    for family in FAMILIES.values():
        if family.recognises(directory):
            return family
    named = model_class(directory)
    for prefix, kind in WITHOUT_LLM.items():
        if str(named).startswith(prefix):
            raise CheckpointError(
                f"{directory} is a {named}, {kind} without an LLM, which is what this engine runs; "
                "use funasr.AutoModel for it"
            )
    path = directory / CONFIG_YAML
    hint = ConfigFile.read(path).hint if path.is_file() else ""
    known = "; ".join(f"{', '.join(family.examples)} ({family.sign})" for family in FAMILIES.values())
    said = [f"{name} says {value!r}" for name, value in _said(directory, named) if value is not None]
    files = enumerate_names(sorted(entry.name for entry in directory.iterdir())) or "no files"
    raise CheckpointError(
        f"{directory} is of no known model family: {' and '.join(said) or 'no configuration names a model'}; "
        f"it holds {files}{hint}. Known: {known}"
    )


def _said(directory: Path, named: object) -> list[tuple[str, object]]:
    return [(f"model in {CONFIG_YAML}", named), (f"model_type in {CONFIG_NAME}", model_type(directory))]
