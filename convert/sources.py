"""The files that a conversion reads, as they are at its beginning, and whether an older conversion read the same."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ..engine.errors import CheckpointError
from ..engine.hub.model_files import check_file
from ..engine.manifest import SourceFile


@dataclass(frozen=True, slots=True)
class Sources:
    """Sizes and times of files at one moment. A file's digest is computed when it is first needed, and then kept."""

    files: Mapping[str, Path]  # by name relative to the checkpoint
    stats: Mapping[str, tuple[int, int]]  # size in bytes, mtime in ns
    _digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def snapshot(cls, files: Mapping[str, Path]) -> Self:
        """Raises CheckpointError if one of the files is empty, or a placeholder for the file of the checkpoint."""
        for path in files.values():
            check_file(path)
        return cls(files, {name: _stat(path) for name, path in files.items()})

    def look_unchanged(self, recorded: Mapping[str, SourceFile]) -> bool:
        """Whether files, sizes and times are the same. No file is read."""
        return self.stats == {name: (file.size, file.mtime_ns) for name, file in recorded.items()}

    def are_unchanged(self, recorded: Mapping[str, SourceFile]) -> bool:
        """Whether files and content are the same. A file is read if its size is the same but its time is not."""
        if self.stats.keys() != recorded.keys():
            return False
        changed = [name for name, file in recorded.items() if self.stats[name] != (file.size, file.mtime_ns)]
        same_size = all(self.stats[name][0] == recorded[name].size for name in changed)
        return same_size and all(self._digest(name) == recorded[name].sha256 for name in changed)

    def records(self) -> dict[str, SourceFile]:
        """The records of the files in engine.json. Reads all files."""
        return {
            name: SourceFile(size=size, mtime_ns=mtime_ns, sha256=self._digest(name))
            for name, (size, mtime_ns) in self.stats.items()
        }

    def check_untouched(self) -> None:
        """Raises CheckpointError if a file was changed since the snapshot."""
        touched = [name for name, path in self.files.items() if _stat(path) != self.stats[name]]
        if touched:
            raise CheckpointError(f"{', '.join(touched)} changed while being converted; convert again")

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = _sha256(self.files[name])
        return self._digests[name]


def _stat(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
