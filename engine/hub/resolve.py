"""Model id -> local directory, fetching only the needed files of a repository on a hub.

A directory is used as it is, and no hub library is imported for it. From a repository, the few small files that
identify the model are fetched first, so that an unsupported model is refused before its weights. Files in the cache of
the hub's library are not fetched again, and an interrupted download is resumed. If the hub does not respond, or
HF_HUB_OFFLINE=1 forbids access to both hubs, the copy in the cache is used, with a warning.

Mirrors: HF_ENDPOINT for Hugging Face, MODELSCOPE_ENDPOINT for ModelScope. Caches: HF_HOME (~/.cache/huggingface) and
MODELSCOPE_CACHE (~/.cache/modelscope).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from ..errors import ConfigError
from .model_files import RepositoryFiles

HubName = Literal["ms", "hf"]
HUBS: tuple[HubName, ...] = get_args(HubName)
_MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_model(
    model: str | Path,
    *,
    hub: HubName = "ms",
    revision: str | None = None,
    files: RepositoryFiles | None = None,
    more: Sequence[str] = (),
    output: Path | None = None,
) -> Path:
    """Return the directory of a model, fetching the needed files from a hub if `model` is not a directory.

    Args:
        model: a directory, or owner/name on the hub. A string that looks like a path is never sent to a hub.
        hub: "ms" (ModelScope) or "hf" (Hugging Face).
        revision: branch, tag or commit; by default the hub's main branch.
        files: the files to fetch; by default those that the model's family needs, which its configuration names.
        more: patterns of further files to fetch, if they exist.
        output: where the model will be converted to, to check the disk space; by default inside the directory.

    Raises:
        ConfigError: a path that is not a directory, an invalid id, or an unknown hub.
        CheckpointError: the repository holds no supported model; its weights are not fetched.
        HubError: the hub's library is missing; the hub cannot be reached, does not have the model, refuses access or
            delivers other content; or the disk space is too small.
    """
    path = Path(os.path.expanduser(model))
    if model and path.is_dir():  # "" would be the working directory
        return path
    if hub not in HUBS:
        raise ConfigError(f"hub is {hub!r}; one of {', '.join(HUBS)} is needed")
    model_id = _checked_id(model, path)
    from .fetch import fetch_model  # imported here because a directory needs neither torch nor a hub's library

    return fetch_model(model_id, hub, revision, files=files, more=more, output=output)


def _checked_id(model: str | Path, path: Path) -> str:
    if path.is_file():
        raise ConfigError(f"{path} is a file; a model directory is needed")
    text = str(model)
    separators = sum(text.count(separator) for separator in {"/", os.sep})
    if isinstance(model, Path) or separators > 1 or text.startswith((".", "/", "~")):
        raise ConfigError(f"{text} does not exist; a model directory or an owner/name on a hub is needed")
    if not _MODEL_ID.fullmatch(text):
        raise ConfigError(f"{text!r} is neither a directory nor an owner/name on a hub")
    return text
