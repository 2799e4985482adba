"""A checkpoint directory -> a converted directory with engine.json, made once and again when the files change."""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from ..engine.errors import CheckpointError, ConfigError, enumerate_names
from ..engine.manifest import (
    ACOUSTIC_NAME,
    CTC_VOCABULARY_NAME,
    LLM_DIR_NAME,
    MANIFEST_NAME,
    EngineManifest,
)
from .config_file import CONFIG_NAME
from .families import find_family
from .layout import Family, Plan
from .publish import check_free_space, exclusive, is_writable, publish, replace_file, sweep
from .safetensors_file import Advance, list_model_files, write_safetensors, write_sharded
from .sources import Sources
from .weights import DTYPES

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT_NAME = "twostage"  # inside the checkpoint
CACHE_NAME = "twostage-asr"  # inside the user's cache, for checkpoints that cannot be written to
OUTPUT_NAMES = frozenset({MANIFEST_NAME, ACOUSTIC_NAME, CTC_VOCABULARY_NAME, LLM_DIR_NAME})
_METADATA_BYTES = 4 << 20  # more than headers, indices and engine.json take
_DISTRIBUTIONS = ("twostage-asr", "torch", "transformers", "safetensors")


def ensure_converted(
    checkpoint_dir: Path,
    *,
    output: Path | None = None,
    dtype: str = "keep",
    force: bool = False,
    progress: bool = True,
) -> Path:
    """Return the directory with engine.json, converting only if there is none or the checkpoint has changed.

    If several processes call this at the same time, one of them converts. A file counts as changed if its size differs,
    or if its time and then its content differ. A conversion to another dtype is replaced.

    Args:
        checkpoint_dir: as the hubs hold it, or a converted directory, which is returned as it is.
        output: the directory to write; default <checkpoint_dir>/twostage or, if that is not writable, one in the user's
            cache ($XDG_CACHE_HOME or ~/.cache, twostage-asr/<name>-<digest of the path>).
        dtype: of all weights: "keep" (each tensor's own), "bf16", "fp16" or "fp32".
        force: convert even if nothing has changed.
        progress: show a bar on stderr.

    Raises:
        CheckpointError: of no known family, incomplete, inconsistent, or with code among its weights.
        ConfigError: an unknown dtype, or an output that holds other files, is not writable or has too little space.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; one of {', '.join(DTYPES)} is needed")
    checkpoint_dir = checkpoint_dir.resolve()
    if (checkpoint_dir / MANIFEST_NAME).is_file():
        return _as_converted(checkpoint_dir, dtype=dtype, force=force)
    family = find_family(checkpoint_dir)
    sources = Sources.snapshot(family.list_sources(checkpoint_dir))
    candidates = [output.resolve()] if output else _default_outputs(checkpoint_dir)
    for candidate in () if force else candidates:
        manifest = _find_current(candidate, family, sources, dtype)
        if manifest is not None:
            _keep_house(candidate, manifest, sources)
            return candidate
    destination = next((candidate for candidate in candidates if is_writable(candidate)), None)
    if destination is None:
        tried = " and ".join(map(str, candidates))
        raise ConfigError(
            f"{tried} cannot be written; let XDG_CACHE_HOME be a folder that can, or convert into one by "
            "twostage-asr convert --output, and name that as the model"
        )
    try:
        with exclusive(destination):
            _convert_unless_done(checkpoint_dir, destination, family, dtype=dtype, force=force, progress=progress)
    except OSError as error:
        raise ConfigError(f"cannot convert {checkpoint_dir} into {destination}: {error}") from error
    return destination


def _as_converted(directory: Path, *, dtype: str, force: bool) -> Path:
    manifest = EngineManifest.read(directory)
    if force or dtype not in ("keep", manifest.dtype):
        raise ConfigError(
            f"{directory} is itself a conversion (dtype {manifest.dtype}); name the checkpoint it is from"
        )
    return directory


def _default_outputs(checkpoint_dir: Path) -> list[Path]:
    outputs = [checkpoint_dir / DEFAULT_OUTPUT_NAME]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if cache.is_absolute():  # without a home directory it is not
        digest = hashlib.sha256(os.fsencode(checkpoint_dir)).hexdigest()[:16]
        outputs.append(cache / CACHE_NAME / f"{checkpoint_dir.name}-{digest}")
    return outputs


def _find_current(directory: Path, family: Family, sources: Sources, dtype: str) -> EngineManifest | None:
    """The manifest of `directory` if it holds a complete conversion of exactly these sources, else None."""
    try:
        manifest = EngineManifest.read(directory)
    except CheckpointError:
        return None
    is_same = (manifest.family, manifest.dtype) == (family.name, dtype) and sources.are_unchanged(manifest.source)
    return manifest if is_same and is_complete(directory, manifest) else None


def _keep_house(directory: Path, manifest: EngineManifest, sources: Sources) -> None:
    """Remove what killed processes left behind, and record new times of unchanged files, which are then not read again.

    The conversion can be used without either, so errors of the file system are ignored.
    """
    with contextlib.suppress(OSError):
        sweep(directory)
        if sources.look_unchanged(manifest.source) or not is_writable(directory):
            return
        renewed = manifest.model_copy(update={"source": sources.records()})
        with exclusive(directory):
            if EngineManifest.read(directory) == manifest:  # no other process has converted meanwhile
                replace_file(directory, MANIFEST_NAME, renewed.write)


def is_complete(directory: Path, manifest: EngineManifest) -> bool:
    """Whether every file that engine.json implies exists, and no safetensors file is cut short."""
    llm = directory / LLM_DIR_NAME
    files = [llm / CONFIG_NAME] if "ctc" in manifest.missing else [llm / CONFIG_NAME, directory / CTC_VOCABULARY_NAME]
    try:
        for path in (directory / ACOUSTIC_NAME, *list_model_files(llm)):
            with safe_open(path, framework="pt"):  # compares the header with the file's size
                pass
    except (OSError, CheckpointError, SafetensorError):
        return False
    return all(path.is_file() for path in files)


def _convert_unless_done(
    checkpoint_dir: Path, output: Path, family: Family, *, dtype: str, force: bool, progress: bool
) -> None:
    """Convert, under the lock, unless another process has done so while this one waited for the lock."""
    sources = Sources.snapshot(family.list_sources(checkpoint_dir))
    if not force and _find_current(output, family, sources, dtype) is not None:
        return
    _refuse_strangers(output)
    plan = family.plan(checkpoint_dir, DTYPES[dtype])
    for note in plan.notes:
        logger.warning("%s: %s", checkpoint_dir.name, note)
    check_free_space(output, plan.weight_bytes + sum(f.stat().st_size for f in plan.copied_files) + _METADATA_BYTES)
    bar = tqdm(
        total=plan.weight_bytes,
        desc=f"converting {checkpoint_dir.name}",
        unit="B",
        unit_scale=True,
        disable=None if progress else True,  # None: shown on a terminal only
    )

    def fill(partial: Path) -> None:
        _write(partial, plan, bar.update)
        sources.check_untouched()
        _manifest(plan, family, sources, dtype).write(partial)

    with bar:
        publish(output, fill)


def _refuse_strangers(output: Path) -> None:
    """Raises ConfigError if `output` holds anything that no conversion wrote."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ConfigError(f"{output} is a file; a directory to convert into is needed")
    names = {entry.name for entry in output.iterdir()}
    strangers = sorted(names - OUTPUT_NAMES if MANIFEST_NAME in names else names)
    if strangers:
        raise ConfigError(
            f"{output} holds {enumerate_names(strangers)}, which no conversion wrote; "
            "it is left alone: name an empty or new directory"
        )


def _write(directory: Path, plan: Plan, advance: Advance) -> None:
    """Write every file of a conversion except engine.json."""
    write_safetensors(directory / ACOUSTIC_NAME, plan.acoustic, advance)
    if plan.ctc_vocabulary is not None:
        shutil.copyfile(plan.ctc_vocabulary, directory / CTC_VOCABULARY_NAME)
    llm = directory / LLM_DIR_NAME
    llm.mkdir()
    config = json.dumps(plan.llm.config, indent=2, ensure_ascii=False)
    (llm / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")
    for file in plan.llm.files:
        shutil.copyfile(file, llm / file.name)
    for name, content in plan.llm.made_files.items():
        (llm / name).write_text(content, encoding="utf-8")
    write_sharded(llm, plan.llm.weights, advance)


def _manifest(plan: Plan, family: Family, sources: Sources, dtype: str) -> EngineManifest:
    return EngineManifest(
        family=family.name,
        dtype=dtype,
        acoustic=dict(plan.acoustic_config),
        frame_clock=plan.frame_clock,
        llm=plan.llm.info,
        missing=dict(plan.missing),
        notes=plan.notes,
        source=sources.records(),
        versions={name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
    )
