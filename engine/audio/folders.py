"""The files of a folder and of the folders in it, on this machine or wherever fsspec reaches."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from .urls import is_url

Entries: TypeAlias = Callable[[str], tuple[list[str], list[str]]]  # folder -> names of its files, and of its folders


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """(path below the folder, "" or with a "/" at its end; names of the files there), depth first and sorted.

    Memory holds the names of one folder at a time. Raises OSError for what cannot be listed.
    """
    entries, root = _local_entries, folder
    if is_url(folder):
        import fsspec

        system, root = fsspec.url_to_fs(folder)
        entries = partial(_remote_entries, system)
    waiting = [""]
    while waiting:
        below = waiting.pop()
        files, folders = entries(f"{root}/{below}")
        yield below, sorted(files)
        waiting += [f"{below}{name}/" for name in sorted(folders, reverse=True)]


def _local_entries(folder: str) -> tuple[list[str], list[str]]:
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as found:
        for entry in found:  # a link to a folder is not followed: it may lead back
            (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    return files, folders


def _remote_entries(system: Any, folder: str) -> tuple[list[str], list[str]]:
    files: list[str] = []
    folders: list[str] = []
    for entry in system.ls(folder, detail=True):
        name = PurePosixPath(entry["name"]).name
        if entry["name"].rstrip("/") != folder.rstrip("/"):  # object stores list a folder within itself
            (folders if entry["type"] == "directory" else files).append(name)
    system.dircache.clear()  # or it would remember all that was ever listed
    return files, folders
