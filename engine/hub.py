"""Model id -> local directory. The only file that talks to model hubs.

A directory is used as it is, and no hub library is imported for it. Mirrors: HF_ENDPOINT for Hugging Face,
MODELSCOPE_ENDPOINT for ModelScope. The hub libraries keep a cache, resume, and show their own progress.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

from .errors import ConfigError, HubError

HubName = Literal["ms", "hf"]
HUBS: tuple[HubName, ...] = get_args(HubName)
_MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REFUSED_STATUS = (401, 403)
_UNREACHABLE = re.compile("Connect|Timeout|Network|Proxy|Offline")  # in the names of the libraries' error classes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hub:
    title: str
    endpoint: str
    download: Callable[[], str]  # returns the directory
    failures: tuple[type[Exception], ...]  # what `download` raises


def resolve_model(model: str | Path, *, hub: HubName = "ms", revision: str | None = None) -> Path:
    """Return the directory of a model, fetching it from a hub if `model` is not a directory.

    Args:
        model: a directory, or owner/name on the hub. What looks like a path is never sent to a hub.
        hub: "ms" (ModelScope) or "hf" (Hugging Face).
        revision: branch, tag or commit; default the hub's main branch.

    Raises:
        ConfigError: a path that is not a directory, no valid id, or an unknown hub.
        HubError: the hub's library is missing, or the hub cannot be reached, does not hold the model, or refuses it.
    """
    path = Path(os.path.expanduser(model))
    if model and path.is_dir():  # "" would be the working directory
        return path
    if hub not in HUBS:
        raise ConfigError(f"hub is {hub!r}; one of {', '.join(HUBS)} is needed")
    model_id = _checked_id(model, path)
    source = _hugging_face(model_id, revision) if hub == "hf" else _model_scope(model_id, revision)
    try:
        return Path(source.download())
    except source.failures as error:
        raise HubError(_explain(error, source, model_id, revision)) from error


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


def _hugging_face(model_id: str, revision: str | None) -> _Hub:
    from huggingface_hub import constants, errors, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    return _Hub(
        title="Hugging Face (hub='hf')",
        endpoint=endpoint,
        download=lambda: snapshot_download(model_id, revision=revision, endpoint=endpoint),
        failures=_exceptions_in(errors),
    )


def _model_scope(model_id: str, revision: str | None) -> _Hub:
    try:
        from modelscope.hub import errors
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError as error:
        raise HubError(
            f"{model_id} is not a directory, and ModelScope's library is not installed: "
            "pip install \"twostage-asr[modelscope]\", or use hub='hf'"
        ) from error
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn").rstrip("/")
    return _Hub(
        title="ModelScope (hub='ms')",
        endpoint=endpoint,
        download=lambda: str(snapshot_download(model_id, revision=revision, endpoint=endpoint)),
        failures=_exceptions_in(errors),
    )


def _exceptions_in(module: ModuleType) -> tuple[type[Exception], ...]:
    """Every error class of a hub library: neither has one base class, and HTTP errors come from yet another library."""
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return (OSError, ValueError, *(value for value in classes if issubclass(value, Exception)))


def _explain(error: Exception, hub: _Hub, model_id: str, revision: str | None) -> str:
    """One line: the id, the hub, its endpoint, and which of the usual troubles it is."""
    what = model_id if revision is None else f"{model_id} (revision {revision})"
    where = f"{hub.title} at {hub.endpoint}"
    status = _http_status(error)
    cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if status == 404:
        return f"{what} does not exist on {where}; check the spelling, or try the other hub [{cause}]"
    if status in _REFUSED_STATUS:
        return f"{where} refuses {what}: it does not exist, or is private or gated and needs a login [{cause}]"
    if status is not None:
        return f"{where} answered with HTTP status {status} when asked for {what} [{cause}]"
    if any(_UNREACHABLE.search(type(link).__name__) for link in _chain(error)):
        return f"{what} could not be fetched, since {where} cannot be reached; a local directory needs no hub [{cause}]"
    return f"{what} could not be fetched from {where} [{cause}]"


def _http_status(error: BaseException) -> int | None:
    """The status that the hub answered with, from the error or one that led to it; None if there was no answer."""
    for link in _chain(error):
        for holder in (link, getattr(link, "response", None)):
            status = getattr(holder, "status_code", None)
            if isinstance(status, int):
                return status
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
