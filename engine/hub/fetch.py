"""Downloads the needed files of a repository on a hub: chooses them, checks the disk space, fetches and checks them."""

import fnmatch
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...convert.export import DEFAULT_OUTPUT_NAME
from ...convert.families import CONVERSION_FILES, TELLING_FILES, needed_files
from ..errors import CheckpointError, HubError, enumerate_names
from .libraries import HuggingFace, ModelScope, Repository, Snapshot
from .model_files import RepositoryFiles
from .resolve import HubName

logger = logging.getLogger(__name__)

_REFUSED_STATUS = (401, 403)
# In the names and messages of the libraries' errors: the content differs from what the hub lists.
_ALTERED = re.compile("SizeMismatch|Integrity|Consistency check failed|page of HTML")
_UNREACHABLE = re.compile("Connect|Timeout|Network|Proxy|Offline")  # in the names of the libraries' error classes


def fetch_model(
    model_id: str,
    hub: HubName,
    revision: str | None,
    *,
    files: RepositoryFiles | None,
    more: Sequence[str],
    output: Path | None,
) -> Path:
    """Fetch the needed files of a model on a hub; returns their directory. See `resolve_model` for the arguments."""
    library = HuggingFace if hub == "hf" else ModelScope
    repository: Repository = library(model_id, revision, TELLING_FILES)
    what = model_id if revision is None else f"{model_id} (revision {revision})"
    title = f"{what} on {repository.title}"
    try:
        snapshot = repository.look()
    except repository.failures as error:
        return _cached(repository, what, error)
    needed = files or needed_files(snapshot.directory, title=title, names=sorted(snapshot.files))
    names = _choose(needed, more, snapshot, title)
    is_converted_later = files is None and needed is not CONVERSION_FILES
    size = sum(snapshot.files[name].size for name in names) if is_converted_later else 0
    _prepare(repository, snapshot, names, title, _conversion_size(snapshot, output, size))
    try:
        repository.fetch(snapshot, names)
    except repository.failures as error:
        kept = "what has arrived is kept, and the next attempt goes on from there"
        raise HubError(f"{_explain(error, repository, what)}; {kept}") from error
    wrong = [name for name in names if not _is_here(snapshot, name)]
    if wrong:
        raise HubError(
            f"{title} lists another size than {enumerate_names(wrong)} has in {snapshot.directory}; "
            "try again, or delete the model from the cache"
        )
    return snapshot.directory


def _cached(repository: Repository, what: str, error: Exception) -> Path:
    """The directory of an earlier fetch. Raises HubError with the hub's failure if there is none."""
    reason = _explain(error, repository, what)
    try:
        directory = repository.cached()
    except repository.failures:
        raise HubError(reason) from error
    logger.warning("%s; the copy in %s is used", reason, directory)
    return directory


def _choose(needed: RepositoryFiles, more: Sequence[str], snapshot: Snapshot, title: str) -> list[str]:
    """The names of the files to fetch, weights last. Raises CheckpointError if there are no weights."""
    names = sorted(snapshot.files)
    weights = next((found for pattern in needed.weights if (found := fnmatch.filter(names, pattern))), [])
    if needed.weights and not weights:
        raise CheckpointError(
            f"{title} holds no weights that can be read, which would be {' or '.join(needed.weights)}; "
            f"it holds {enumerate_names(names)}"
        )
    always = [name for pattern in (*needed.always, *more) for name in fnmatch.filter(names, pattern)]
    return list(dict.fromkeys([*always, *weights]))


def _prepare(repository: Repository, snapshot: Snapshot, names: Sequence[str], title: str, conversion: int) -> None:
    """Log what will be fetched. Raises HubError if it and `conversion` bytes more do not fit on the disk."""
    missing = {name: snapshot.files[name].size for name in names if not _is_here(snapshot, name)}
    if not missing:
        return
    begun = sum(_size(repository.partial(snapshot, name)) or 0 for name in missing)
    rest = sum(missing.values()) - begun
    free = shutil.disk_usage(_existing(snapshot.directory)).free
    if rest + conversion > free:
        converted = f" and {_as_text(conversion)} for their conversion" if conversion else ""
        raise HubError(
            f"{title} needs {_as_text(rest)} for {len(missing)} files{converted}, but the disk of {snapshot.directory} "
            f"has {_as_text(free)} free; free some, or have the cache elsewhere ({repository.cache_variable})"
        )
    logger.info(
        "fetching %s in %d files of %s from %s to %s%s; %s free",
        _as_text(rest),
        len(missing),
        title,
        repository.endpoint,
        snapshot.directory,
        f" ({_as_text(begun)} are there)" if begun else "",
        _as_text(free),
    )


def _conversion_size(snapshot: Snapshot, output: Path | None, size: int) -> int:
    """Bytes that converting adds to the download's disk: `size`, or 0 if the output exists or is on another disk."""
    output = output or snapshot.directory / DEFAULT_OUTPUT_NAME
    is_beside = os.stat(_existing(output)).st_dev == os.stat(_existing(snapshot.directory)).st_dev
    return size if is_beside and not output.exists() else 0


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def _is_here(snapshot: Snapshot, name: str) -> bool:
    return _size(snapshot.directory / name) == snapshot.files[name].size


def _size(path: Path) -> int | None:
    """A file's size in bytes; None if there is no such file."""
    return path.stat().st_size if path.is_file() else None


def _as_text(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def _explain(error: Exception, repository: Repository, what: str) -> str:
    """One line for an error: the model, the hub, its endpoint, and which of the common failures it is."""
    where = f"{repository.title} at {repository.endpoint}"
    status = _http_status(error)
    cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if status == 404:
        return f"{what} does not exist on {where}; check the spelling, or try the other hub [{cause}]"
    if status in _REFUSED_STATUS:
        return f"{where} refuses {what}: it does not exist, or is private or gated and needs a login [{cause}]"
    if status is not None:
        return f"{where} answered with HTTP status {status} when asked for {what} [{cause}]"
    if any(_is_html(link) for link in _chain(error)):
        return f"{where} answered with a page of HTML when asked for {what}: it is no hub, or a login page [{cause}]"
    if any(_ALTERED.search(f"{type(link).__name__} {link}") for link in _chain(error)):
        return f"{where} delivered other bytes of {what} than it lists, as a login page or a bad mirror does [{cause}]"
    if any(_UNREACHABLE.search(type(link).__name__) for link in _chain(error)):
        return f"{what} could not be fetched, since {where} cannot be reached; a local directory needs no hub [{cause}]"
    return f"{what} could not be fetched from {where} [{cause}]"


def _is_html(error: BaseException) -> bool:
    return isinstance(error, json.JSONDecodeError) and error.doc.lstrip().startswith("<")


def _http_status(error: BaseException) -> int | None:
    """The HTTP status of the hub's response, from the error or one of its causes; None if there was no response."""
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
        failed = getattr(link, "failed_files", {})  # ModelScope's summary error has them
        link = link.__cause__ or link.__context__ or next(iter(failed.values()), None)
