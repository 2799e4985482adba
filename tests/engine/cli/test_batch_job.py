"""A folder of transcripts: run again with resume, a job does what is missing, and nothing else."""

import errno
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine import ConfigError, Transcript
from twostage_asr.engine.cli.batch_job import OutputFolder, file_names
from twostage_asr.engine.writers import WRITERS

FORMATS = ("srt", "jsonl", "json")


def run(directory: Path, keys: list[str], *, resume: bool, failing: tuple[str, ...] = ()) -> list[str]:
    """Write what is not done; returns the keys of that."""
    with OutputFolder(directory, FORMATS, keys, resume=resume) as folder:
        todo = [key for key in keys if not folder.is_done(key)]
        for key in todo:
            folder.write(Transcript(key=key, status="error", error="x") if key in failing else Transcript(key=key))
    return todo


def keys_in_jsonl(directory: Path) -> list[str]:
    lines = (directory / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()
    return [Transcript.from_json(line).key for line in lines]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    assert run(tmp_path, ["a", "b/c"], resume=True) == ["a", "b/c"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "a.json", "a.srt", "b/c.json", "b/c.srt", "transcripts.jsonl",
    ]  # fmt: skip
    assert run(tmp_path, ["a", "b/c", "d"], resume=True) == ["d"]
    assert keys_in_jsonl(tmp_path) == ["a", "b/c", "d"]
    assert run(tmp_path, ["a"], resume=False) == ["a"]
    assert keys_in_jsonl(tmp_path) == ["a"]


def test_what_failed_is_tried_again_and_keeps_no_files(tmp_path: Path) -> None:
    run(tmp_path, ["a", "b"], resume=False)
    run(tmp_path, ["a", "b"], resume=False, failing=("b",))
    assert not (tmp_path / "b.srt").exists()
    assert keys_in_jsonl(tmp_path) == ["a", "b"]
    assert run(tmp_path, ["a", "b"], resume=True) == ["b"]
    assert keys_in_jsonl(tmp_path) == ["a", "b"]


def failing_for_b(transcript: Transcript) -> str:
    if transcript.key == "b":
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
    return ""


def test_a_writer_that_fails_costs_one_transcript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WRITERS, "srt", failing_for_b)  # type: ignore[arg-type]
    with OutputFolder(tmp_path, FORMATS, "abc", resume=False) as folder:
        written = [folder.write(Transcript(key=key, text="said", duration=2.0)) for key in "abc"]
    assert [(t.key, t.status, t.text, t.duration) for t in written] == [
        ("a", "ok", "said", 2.0), ("b", "error", "", 2.0), ("c", "ok", "said", 2.0),
    ]  # fmt: skip
    assert "write failed for b: UnicodeEncodeError" in (written[1].error or "")
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.json", "a.srt", "c.json", "c.srt", "transcripts.jsonl",
    }  # fmt: skip
    assert keys_in_jsonl(tmp_path) == ["a", "b", "c"]
    assert run(tmp_path, ["a", "b", "c"], resume=True) == ["b"]


def test_a_folder_that_takes_no_more_ends_the_job(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out", ["srt"], "ab", resume=False) as folder:
        folder.write(Transcript(key="a"))
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(FileNotFoundError):
            folder.write(Transcript(key="b"))


def test_a_full_disk_says_where_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Path, *args: object, **options: object) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")  # which the system says without a name

    with OutputFolder(tmp_path, ["srt"], "a", resume=False) as folder:
        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left") as caught:
            folder.write(Transcript(key="a"))
    assert caught.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not caplog.records  # the error is one line, without a traceback


def test_a_folder_that_cannot_be_written_to_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, content: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(PermissionError):
        OutputFolder(tmp_path, ["srt"], "a", resume=False)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="out is a file, and transcripts need a folder"):
        OutputFolder(tmp_path / "out", ["srt"], "a", resume=False)


def test_folders_named_like_files_cost_nothing(tmp_path: Path) -> None:
    keys = ["a.txt/b", "a", "a_txt/b", "c"]
    (tmp_path / "c.txt").mkdir()  # somebody else's
    with OutputFolder(tmp_path, ["txt"], keys, resume=False) as folder:
        written = [folder.write(Transcript(key, text="x")).status for key in keys]
        paths = [folder.paths(key)[0] for key in keys]
    assert written == ["ok", "ok", "ok", "error"]
    assert len(set(paths)) == 4 and all(path.is_file() for path in paths[:3])


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_never_write_one_jsonl_file(tmp_path: Path, resume: bool) -> None:
    with OutputFolder(tmp_path, ["jsonl"], ["a"], resume=False) as first:
        first.write(Transcript("a", text="one"))
        with pytest.raises(ConfigError, match="another run writes"):
            OutputFolder(tmp_path, ["jsonl"], ["b"], resume=resume)
        with OutputFolder(tmp_path, ["txt"], ["b"], resume=resume) as other:
            other.write(Transcript("b", text="two"))
    with OutputFolder(tmp_path, ["jsonl"], ["a"], resume=True) as again:
        assert again.is_done("a")


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_written_again(tmp_path: Path, cut: int) -> None:
    run(tmp_path, ["a", "b"], resume=False)
    path = tmp_path / "transcripts.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert run(tmp_path, ["a", "b"], resume=True) == ["b"]
    assert keys_in_jsonl(tmp_path) == ["a", "b"]


def test_a_missing_file_is_written_again(tmp_path: Path) -> None:
    run(tmp_path, ["a", "b"], resume=False)
    (tmp_path / "a.srt").unlink()
    assert run(tmp_path, ["a", "b"], resume=True) == ["a"]


@pytest.mark.parametrize("formats", [["doc"], []])
def test_unknown_formats_are_refused(tmp_path: Path, formats: list[str]) -> None:
    with pytest.raises(ConfigError, match="allowed: txt, json"):
        OutputFolder(tmp_path / "new", formats, [], resume=False)
    assert not (tmp_path / "new").exists()


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20), st.sampled_from(["../../x", "/x", "a//b", ".", "A", "a", "\ud800", "长" * 300])
        ),
        unique=True,
    )
)
def test_names_are_files_of_the_folder_and_differ(keys: list[str]) -> None:
    names = list(file_names(keys).values())
    assert len({name.casefold() for name in names}) == len(keys)
    for name in names:
        for part in name.split("/"):
            assert part not in ("", ".", "..") and "\0" not in part
            assert len(part.encode()) < 240
