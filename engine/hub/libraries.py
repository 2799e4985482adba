"""The libraries of the two hubs behind one interface, Repository. This is the only file that talks to model hubs.

Both libraries have a cache and do not download again what it contains. Both return files of a single commit: Hugging
Face's library requests that commit, and ModelScope's compares each file with the digests of one listing. ModelScope's
resumes an interrupted download. Newer versions of Hugging Face's start it again, so `_fetch_large` downloads large
files instead.
"""

import glob
import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from filelock import FileLock
from tqdm.auto import tqdm

from ..errors import HubError

_INCOMPLETE = ".incomplete"  # suffix that both libraries give to an incomplete file
_HTML_STARTS = (b"<!doctype", b"<html")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file in a hub's listing."""

    size: int  # bytes
    sha256: str | None  # None if the hub does not list it, as Hugging Face for files stored in git itself


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a repository."""

    directory: Path  # local directory of the files that have been fetched
    files: Mapping[str, ListedFile]  # all files that the hub lists, keyed by path in the repository


class Repository(Protocol):
    """One model on one hub. The errors of all methods are instances of `failures`."""

    title: str
    endpoint: str
    cache_variable: str  # the environment variable that sets the location of the cache
    failures: tuple[type[Exception], ...]

    def look(self) -> Snapshot:
        """List the files on the hub, and fetch the few small ones that identify the model."""
        ...

    def fetch(self, snapshot: Snapshot, names: Collection[str]) -> None:
        """Fetch those of `names` that are not in the cache."""
        ...

    def partial(self, snapshot: Snapshot, name: str) -> Path:
        """The path of a file while its download is incomplete."""
        ...

    def cached(self) -> Path:
        """The directory of an earlier fetch, found without the network."""
        ...


class HuggingFace:
    """A model on Hugging Face. `first` names the files that identify a model, which `look` fetches."""

    title = "Hugging Face (hub='hf')"
    cache_variable = "HF_HOME"

    def __init__(self, model_id: str, revision: str | None, first: Collection[str]) -> None:
        from huggingface_hub import constants, errors

        self.endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        self.failures = _exceptions_in(errors)
        self._model_id, self._revision, self._first = model_id, revision, first

    def look(self) -> Snapshot:
        from huggingface_hub import HfApi, constants

        timeout = constants.HF_HUB_ETAG_TIMEOUT
        api = HfApi(endpoint=self.endpoint)
        info = api.model_info(self._model_id, revision=self._revision, files_metadata=True, timeout=timeout)
        directory = self._snapshot(self._revision, self._first)
        if directory.name != info.sha:  # the branch got a new commit between the two calls
            info = api.model_info(self._model_id, revision=directory.name, files_metadata=True, timeout=timeout)
        files = {
            file.rfilename: ListedFile(file.size or 0, None if file.lfs is None else file.lfs.sha256)
            for file in info.siblings or ()
        }
        return Snapshot(directory, files)

    def fetch(self, snapshot: Snapshot, names: Collection[str]) -> None:
        from huggingface_hub import hf_hub_url

        commit = snapshot.directory.name
        for name in names:
            file = snapshot.files[name]
            if file.sha256 is not None and not (snapshot.directory / name).is_file():
                url = hf_hub_url(self._model_id, name, revision=commit, endpoint=self.endpoint)
                _fetch_large(url, self._blob(snapshot, name), file, name)
        self._snapshot(commit, [glob.escape(name) for name in names])  # small files, and links to large ones

    def partial(self, snapshot: Snapshot, name: str) -> Path:
        blob = self._blob(snapshot, name)
        return blob.with_name(blob.name + _INCOMPLETE)

    def cached(self) -> Path:
        return self._snapshot(self._revision, self._first, local_files_only=True)

    def _snapshot(self, revision: str | None, patterns: Collection[str], *, local_files_only: bool = False) -> Path:
        from huggingface_hub import snapshot_download

        directory = snapshot_download(
            self._model_id,
            revision=revision,
            endpoint=self.endpoint,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
            tqdm_class=_NoBar,
        )
        return Path(directory)

    def _blob(self, snapshot: Snapshot, name: str) -> Path:
        """The path of a large file's content in the library's cache: blobs/<SHA-256>, beside the snapshots."""
        return snapshot.directory.parent.parent / "blobs" / (snapshot.files[name].sha256 or name)


class ModelScope:
    """A model on ModelScope. `first` names the files that identify a model, which `look` fetches."""

    title = "ModelScope (hub='ms')"
    cache_variable = "MODELSCOPE_CACHE"

    def __init__(self, model_id: str, revision: str | None, first: Collection[str]) -> None:
        try:
            from modelscope.hub import errors
        except ImportError as error:
            raise HubError(
                f"{model_id} is not a directory, and ModelScope's library is not installed: "
                "pip install \".[modelscope]\", or use hub='hf'"
            ) from error
        self.endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn").rstrip("/")
        self.failures = _exceptions_in(errors)
        self._model_id, self._revision, self._first = model_id, revision, first

    def look(self) -> Snapshot:
        from huggingface_hub import constants
        from modelscope_hub import HubApi

        if constants.HF_HUB_OFFLINE:  # serves both hubs, because ModelScope's library has no such variable
            raise ConnectionError("HF_HUB_OFFLINE is set")
        listed = HubApi(endpoint=self.endpoint).list_repo_files(self._model_id, "model", revision=self._revision)
        files = {file.path: ListedFile(file.size, file.sha256) for file in listed if not file.is_dir}
        return Snapshot(self._snapshot(self._first), files)

    def fetch(self, snapshot: Snapshot, names: Collection[str]) -> None:
        self._snapshot([glob.escape(name) for name in names])

    def partial(self, snapshot: Snapshot, name: str) -> Path:
        return snapshot.directory / (name + _INCOMPLETE)

    def cached(self) -> Path:
        return self._snapshot((), local_files_only=True)

    def _snapshot(self, patterns: Collection[str], *, local_files_only: bool = False) -> Path:
        from modelscope.hub.snapshot_download import snapshot_download

        directory: str = snapshot_download(
            self._model_id,
            revision=self._revision,
            endpoint=self.endpoint,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
        )
        return Path(directory)


class _NoBar(tqdm):  # type: ignore[type-arg]
    """A disabled progress bar, for small files."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})


def _fetch_large(url: str, blob: Path, file: ListedFile, name: str) -> None:
    """Download `url` to `blob`, resuming an earlier attempt of any process.

    Raises OSError if the content is not the listed file, after deleting it, and all that http_get raises.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    partial = blob.with_name(blob.name + _INCOMPLETE)
    storage = blob.parent.parent
    lock = storage.parent / ".locks" / storage.name / f"{blob.name}.lock"  # the library's own lock for this file
    for directory in (blob.parent, lock.parent):
        directory.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if blob.exists():
            return
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # compressing servers ignore ranges
        try:
            with partial.open("ab") as output:
                if output.tell() > file.size:  # too long to be a part of this file
                    output.truncate(0)
                start = partial.stat().st_size
                http_get(
                    url, output, resume_size=start, headers=headers, expected_size=file.size, displayed_filename=name
                )
        finally:
            _discard_html(partial, name)
        _check_digest(partial, file, name)
        partial.replace(blob)


def _discard_html(partial: Path, name: str) -> None:
    with partial.open("rb") as content:
        start = content.read(len(_HTML_STARTS[0])).lower()
    if start.startswith(_HTML_STARTS):
        partial.unlink()
        raise OSError(f"a page of HTML came instead of {name}")


def _check_digest(partial: Path, file: ListedFile, name: str) -> None:
    with partial.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != file.sha256:
        partial.unlink()
        raise OSError(f"{name} came with the SHA-256 {digest}, and {file.sha256} is listed")


def _exceptions_in(module: ModuleType) -> tuple[type[Exception], ...]:
    """All error classes of a hub library, with OSError and ValueError.

    Neither library has a common base class, and HTTP errors come from other libraries.
    """
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return (OSError, ValueError, *(value for value in classes if issubclass(value, Exception)))
