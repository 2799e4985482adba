"""Model id -> local directory: what is needed of a repository on a hub is fetched, and nothing else.

A directory is used as it is, and no hub library is imported for it. Of a repository the few small files come first that
tell what the model is; one that does not run here is refused before its weights. What the cache of the hub's library
holds is not fetched again, and a download that was interrupted goes on where it stopped. Where the hub does not answer,
or HF_HUB_OFFLINE=1 forbids to ask either hub, the copy in the cache is used, with a warning.

Mirrors: HF_ENDPOINT for Hugging Face, MODELSCOPE_ENDPOINT for ModelScope. Caches: HF_HOME (~/.cache/huggingface) and
MODELSCOPE_CACHE (~/.cache/modelscope).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import ConfigError

if TYPE_CHECKING:
    from ...convert.layout import RepositoryFiles

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
    """Return the directory of a model, fetching what is needed of it from a hub if `model` is not a directory.

    Args:
        model: a directory, or owner/name on the hub. What looks like a path is never sent to a hub.
        hub: "ms" (ModelScope) or "hf" (Hugging Face).
        revision: branch, tag or commit; default the hub's main branch.
        files: what is needed of the repository; default what the model family needs that its configuration names.
        more: patterns of files that are fetched as well, where there are any.
        output: where the model will be converted to, for the room that this takes; default inside the directory.

    Raises:
        ConfigError: a path that is not a directory, no valid id, or an unknown hub.
        CheckpointError: a repository that holds no model which runs here; none of its weights are fetched.
        HubError: the hub's library is missing, the hub cannot be reached, does not hold the model, refuses it or
            delivers something else, or the disk has too little room.
    """
    path = Path(os.path.expanduser(model))
    if model and path.is_dir():  # "" would be the working directory
        return path
    if hub not in HUBS:
        raise ConfigError(f"hub is {hub!r}; one of {', '.join(HUBS)} is needed")
    model_id = _checked_id(model, path)
    from .fetch import fetch_model  # here: a directory needs neither torch nor a hub's library

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
