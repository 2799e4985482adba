"""What is said of a download before it begins, and the room that it must find; the hub is played by a class.

And what becomes of the parts of files that Hugging Face's library does not continue.
"""

import hashlib
import logging
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from tests.hub_mirror import HubMirror
from twostage_asr.engine.errors import HubError
from twostage_asr.engine.hub import fetch, libraries
from twostage_asr.engine.hub.libraries import ListedFile, Snapshot
from twostage_asr.engine.hub.resolve import resolve_model

WEIGHTS = 2_000_000_000  # bytes
MODEL = "owner/nano"


class Hub:
    """A hub whose files are full of holes, so that gigabytes take no room."""

    title, endpoint, cache_variable = "A hub", "http://hub", "HUB_CACHE"
    failures = (OSError,)
    directory: ClassVar[Path]
    delivered: ClassVar[dict[str, int]]  # name -> size of what comes
    fetches: ClassVar[int]

    def __init__(self, model_id: str, revision: str | None, first: Collection[str]) -> None:
        self.first = first

    def look(self) -> Snapshot:
        (self.directory / "config.yaml").write_text("model: FunASRNano\n")
        sizes = {"config.yaml": 18, "model.pt": WEIGHTS, "NOTES.md": 5_000, "multilingual.tiktoken": 900_000}
        return Snapshot(self.directory, {name: ListedFile(size, None) for name, size in sizes.items()})

    def fetch(self, snapshot: Snapshot, names: Collection[str]) -> None:
        Hub.fetches += 1
        for name, size in self.delivered.items():
            with (snapshot.directory / name).open("wb") as file:
                file.truncate(size)

    def partial(self, snapshot: Snapshot, name: str) -> Path:
        return snapshot.directory / f"{name}.incomplete"

    def cached(self) -> Path:
        raise FileNotFoundError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of MODEL will be, on a hub that is the default."""
    Hub.directory, Hub.fetches = tmp_path, 0
    Hub.delivered = {"model.pt": WEIGHTS, "multilingual.tiktoken": 900_000}
    monkeypatch.setattr(fetch, "ModelScope", Hub)
    return tmp_path


class Usage(NamedTuple):
    free: int


def leave(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(num_bytes))


def test_size_number_place_and_free_space_are_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave(monkeypatch, 80_000_000_000)
    caplog.set_level(logging.INFO)
    assert resolve_model(MODEL) == directory
    said = f"fetching 2.00 GB in 2 files of owner/nano on A hub from http://hub to {directory}; 80.00 GB free"
    assert caplog.messages == [said]
    resolve_model(MODEL)
    assert caplog.messages == [said]


def test_too_little_room_is_an_error_before_the_first_byte(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 3_900_000_000)
    with pytest.raises(HubError) as caught:
        resolve_model(MODEL)
    assert str(caught.value) == (
        f"owner/nano on A hub needs 2.00 GB for 2 files and 2.00 GB for their conversion, but the disk of {directory} "
        "has 3.90 GB free; free some, or have the cache elsewhere (HUB_CACHE)"
    )
    assert Hub.fetches == 0


def test_a_conversion_needs_room_only_where_it_will_be_made(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 3_900_000_000)
    resolve_model(MODEL, output=Path("/proc/another/disk"))
    (directory / "model.pt").unlink()
    (directory / "twostage").mkdir()
    resolve_model(MODEL)
    assert Hub.fetches == 2


def test_what_has_arrived_of_a_file_needs_no_room(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 2_600_000_000)
    with (directory / "model.pt.incomplete").open("wb") as file:
        file.truncate(1_500_000_000)
    resolve_model(MODEL)
    assert Hub.fetches == 1


def test_a_file_of_another_size_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 80_000_000_000)
    Hub.delivered["model.pt"] = WEIGHTS - 1
    with pytest.raises(HubError, match=r"owner/nano on A hub lists another size than model\.pt has in "):
        resolve_model(MODEL)


@pytest.mark.parametrize(
    ("part", "is_told"), [(b"\0" * 20_000, False), (b"another file", True), (b"<!DOCTYPE html>", True)]
)
def test_a_part_that_is_no_beginning_of_the_file_is_thrown_away(tmp_path: Path, part: bytes, is_told: bool) -> None:
    content = bytes(range(256)) * 40
    (tmp_path / "model.pt").write_bytes(content)
    file = ListedFile(len(content), hashlib.sha256(content).hexdigest())
    blob = tmp_path / "cache" / "blobs" / "digest"
    blob.parent.mkdir(parents=True)
    blob.with_name("digest.incomplete").write_bytes(part)
    with HubMirror({MODEL: tmp_path}) as mirror:
        url = f"{mirror.endpoint}/{MODEL}/resolve/main/model.pt"
        if is_told:
            with pytest.raises(OSError, match=r"model\.pt"):
                libraries._fetch_large(url, blob, file, "model.pt")
        libraries._fetch_large(url, blob, file, "model.pt")
    assert blob.read_bytes() == content
