"""What a name stands for: the same inputs, in the same order, wherever they lie."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from twostage_asr.engine import ConfigError
from twostage_asr.engine.jobs.listing import Listing, from_line, to_line

NAMES = ("b.wav", "a.mp3", "d/c.flac", "d/notes.txt", "e/f/g.wav")


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder with some files, on this machine or on a file system of fsspec's."""
    root = str(tmp_path) if request.param == "local" else "memory://calls"
    for name in NAMES:
        with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
            file.write(b"content")
    yield root
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/calls", recursive=True)


def listed(*named: str) -> list[tuple[str, str]]:
    """(key, source) of each input, as its line in the plan says."""
    lines = [json.loads(to_line(item)) for item in Listing(named)]
    return [(line["key"], line["source"]) for line in lines]


def test_a_folder_is_searched_in_order(place: str) -> None:
    listing = Listing([place])
    assert [item.key for item in listing] == ["a", "b", "d/c", "e/f/g"]
    assert listing.num_passed_over == 1
    assert listed(place)[2] == ("d/c", f"{place}/d/c.flac")


@pytest.mark.parametrize(("pattern", "keys"), [("**/*.wav", ["b", "e/f/g"]), ("*.*", ["a", "b"]), ("d/?.flac", ["c"])])
def test_a_pattern_is_matched(place: str, pattern: str, keys: list[str]) -> None:
    assert [item.key for item in Listing([f"{place}/{pattern}"])] == keys


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_name_files_beside_them(place: str, encoding: str) -> None:
    with fsspec.open(f"{place}/wav.scp", "wb") as file:
        file.write("k1 b.wav\r\n\nk2 s3://bucket/长.mp3\n".encode(encoding))
    assert listed(f"{place}/wav.scp") == [("k1", f"{place}/b.wav"), ("k2", "s3://bucket/长.mp3")]


def test_rows_of_parquet_are_inputs(place: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: the extra batch")
    pyarrow = pytest.importorskip("pyarrow")
    with fsspec.open(f"{place}/list.parquet", "wb") as file:
        parquet.write_table(pyarrow.table({"source": ["b.wav", "a.mp3"], "language": ["zh", None]}), file)
    items = list(Listing([f"{place}/list.parquet"]))
    assert [(item.key, item.language) for item in items] == [("b", "zh"), ("a", None)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_ends_a_line_and_nothing_else(tmp_path: Path, encoding: str, end: str) -> None:
    lines = ['{"source": "a.wav", "context": "x\u2028y\x85z"}', "", '{"source": "b.wav"}', "{"]
    (tmp_path / "l.jsonl").write_bytes(end.join(lines).encode(encoding))
    found = iter(Listing([str(tmp_path / "l.jsonl")]))
    assert [next(found).context, next(found).key] == ["x\u2028y\x85z", "b"]
    with pytest.raises(ConfigError, match="line 4"):
        next(found)


@pytest.mark.parametrize("name", ["nosuch://bucket/a.wav", "filecache://a", "not.parquet"])
def test_what_no_library_can_list_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("not.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=name):
        list(Listing([name]))


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('{"source": "a.wav"}\n{"source": 3}\n')
    with pytest.raises(ConfigError, match='line 2: "source" must be'):
        list(Listing([str(tmp_path / "l.jsonl")]))


def test_a_remote_file_is_read_when_it_is_needed(place: str) -> None:
    item = from_line(to_line(next(iter(Listing([place])))))
    source = item.source
    content = source.read_bytes() if isinstance(source, Path) else source.read(7)  # type: ignore[union-attr]
    assert content == b"content"
