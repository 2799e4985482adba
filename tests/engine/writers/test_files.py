"""Names of output files, and how they are written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.writers.files import replacing
from twostage_asr.engine.writers.names import file_name


@given(st.lists(st.text(max_size=300) | st.sampled_from(["../x", ".", "..", "/", "a//b", "\ud800"]), unique=True))
def test_names_are_paths_below_the_folder_and_differ(keys: list[str]) -> None:
    names = [file_name(key) for key in keys]
    assert len(set(names)) == len(keys)
    for name in names:
        parts = name.split("/")
        assert all(part not in ("", ".", "..") and len(part.encode()) < 240 and "\0" not in part for part in parts)


def test_no_folder_has_the_name_of_a_file() -> None:
    keys = ["a", "a.srt/b", "a.srt.part/c", "a%2Esrt/b", "x/" * 2000]
    files = [Path(f"{file_name(key)}.srt") for key in keys]
    folders = {folder for file in files for folder in file.parents}
    assert len(set(files)) == len(keys) and folders.isdisjoint({*files, Path("a.srt.part")})
    assert all(len(str(file)) < 1100 for file in files)  # bytes; PATH_MAX is 4096


@pytest.mark.parametrize(
    ("key", "name"),
    [("通话 (1)/it's a [test] & more", "通话 (1)/it's a [test] & more"), ("10:30", "10%3A30"), ("100 %", "100 %25")],
)
def test_only_what_a_name_cannot_have_is_written_otherwise(key: str, name: str) -> None:
    assert file_name(key) == name


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, is_durable: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="half"), replacing(path, is_durable=is_durable) as file:
        file.write(b"ne")
        raise ValueError("half")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replacing(path, is_durable=is_durable) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
