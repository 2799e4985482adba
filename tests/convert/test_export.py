"""ensure_converted: converts once, notices what changed, destroys nothing, leaves nothing half done."""

import logging
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.convert.checkpoints import EditCheckpoint, read_tensors
from twostage_asr.convert import export, sources
from twostage_asr.convert.export import ensure_converted
from twostage_asr.engine.errors import CheckpointError, ConfigError
from twostage_asr.engine.manifest import EngineManifest


@pytest.fixture
def converted(edited: EditCheckpoint) -> Path:
    """A conversion beside its own copy of the checkpoint."""
    return ensure_converted(edited(), progress=False)


def is_kept(converted: Path, **options: object) -> bool:
    """Whether asking again leaves the conversion as it is."""
    before = (converted / "acoustic.safetensors").stat().st_ino
    assert ensure_converted(converted.parent, progress=False, **options) == converted  # type: ignore[arg-type]
    assert not list(converted.parent.glob(".*.partial")) and not list(converted.parent.glob(".*.old"))
    return (converted / "acoustic.safetensors").stat().st_ino == before


def test_the_default_output_is_inside_the_checkpoint_and_holds_the_documented_files(converted: Path) -> None:
    assert converted == converted.parent / "twostage"
    names = {"engine.json", "acoustic.safetensors", "ctc.tiktoken", "llm"}
    assert {entry.name for entry in converted.iterdir()} == names
    assert {entry.name for entry in converted.parent.iterdir() if entry.name.startswith(".")} == {".twostage.lock"}


@pytest.mark.parametrize("name", ["Qwen3-0.6B/tokenizer_config.json", "Qwen3-0.6B/merges.txt", "multilingual.tiktoken"])
def test_a_pointer_among_the_files_that_are_only_copied_is_refused(edited: EditCheckpoint, name: str) -> None:
    checkpoint = edited()
    (checkpoint / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n")
    with pytest.raises(CheckpointError, match=f"{name} is a git-lfs pointer"):
        ensure_converted(checkpoint, progress=False)


def test_an_unchanged_checkpoint_is_neither_converted_nor_read_again(
    converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(sources, "_sha256", refuse)
    assert is_kept(converted)


def test_new_times_with_old_content_are_looked_into_once(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(converted.parent / "model.pt", ns=(1, 1))
    assert is_kept(converted)
    assert EngineManifest.read(converted).source["model.pt"].mtime_ns == 1
    monkeypatch.setattr(sources, "_sha256", None)  # not called any more
    assert is_kept(converted)


def test_a_conversion_that_cannot_be_locked_is_used(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another user owns the lock file."""
    os.utime(converted.parent / "model.pt", ns=(1, 1))
    (converted.parent / ".twostage.partial").mkdir()
    (converted.parent / ".twostage.lock").unlink()
    (converted.parent / ".twostage.lock").mkdir()  # opening it fails even for root
    assert ensure_converted(converted.parent, progress=False) == converted
    with pytest.raises(ConfigError, match=r"cannot convert .*\.twostage\.lock"):
        ensure_converted(converted.parent, force=True, progress=False)


@pytest.mark.parametrize("name", ["model.pt", "config.yaml", "Qwen3-0.6B/tokenizer_config.json"])
def test_changed_content_is_converted_again(converted: Path, name: str) -> None:
    path = converted.parent / name
    content = bytearray(path.read_bytes())
    if name == "model.pt":
        at = content.index(read_tensors(converted)["audio_encoder.tp_norm.bias"].view(torch.uint8).numpy().tobytes())
        content[at] ^= 1
    else:
        content += b"\n"
    path.write_bytes(content)
    before = read_tensors(converted)["audio_encoder.tp_norm.bias"]
    assert not is_kept(converted)
    assert (read_tensors(converted)["audio_encoder.tp_norm.bias"] == before).all() == (name != "model.pt")
    assert is_kept(converted)


def test_a_file_added_to_the_checkpoint_is_noticed(converted: Path) -> None:
    (converted.parent / "Qwen3-0.6B" / "chat_template.jinja").write_text("{{ messages }}")
    assert not is_kept(converted)
    assert (converted / "llm" / "chat_template.jinja").is_file()


def test_another_dtype_and_force_convert_again(converted: Path) -> None:
    assert not is_kept(converted, dtype="fp32")
    assert {tensor.dtype for tensor in read_tensors(converted).values()} == {torch.float32}
    assert is_kept(converted, dtype="fp32")
    assert not is_kept(converted, dtype="fp32", force=True)


@pytest.mark.parametrize(
    ("name", "is_cut_short"),
    [
        *(
            (name, False)
            for name in ("acoustic.safetensors", "llm/model.safetensors", "llm/config.json", "ctc.tiktoken")
        ),
        *((name, True) for name in ("acoustic.safetensors", "llm/model.safetensors")),
    ],
)
def test_a_conversion_that_lost_a_file_is_made_again(converted: Path, name: str, is_cut_short: bool) -> None:
    path = converted / name
    if is_cut_short:
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    assert not export.is_complete(converted, EngineManifest.read(converted))
    ensure_converted(converted.parent, progress=False)
    assert export.is_complete(converted, EngineManifest.read(converted))


def test_a_converted_directory_is_returned_as_it_is(converted: Path) -> None:
    assert ensure_converted(converted) == converted
    for options in ({"force": True}, {"dtype": "fp32"}):
        with pytest.raises(ConfigError, match="is itself a conversion"):
            ensure_converted(converted, **options)  # type: ignore[arg-type]


def test_a_read_only_checkpoint_is_converted_into_the_users_cache(
    edited: EditCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = edited()
    checkpoint.chmod(0o555)
    allowed = os.access  # root may write anywhere: pretend that it may not
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != checkpoint and allowed(path, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = ensure_converted(checkpoint, progress=False)
    assert first.parent == tmp_path / "cache" / "twostage-asr"
    assert first.name.startswith("checkpoint-") and len(first.name) == len("checkpoint-") + 16
    assert not (checkpoint / "twostage").exists()
    inode = (first / "engine.json").stat().st_ino
    assert ensure_converted(checkpoint, progress=False) == first
    assert (first / "engine.json").stat().st_ino == inode
    with pytest.raises(ConfigError, match="cannot be written; let XDG_CACHE_HOME be"):
        ensure_converted(checkpoint, output=checkpoint / "elsewhere", progress=False)


def test_without_a_home_only_the_checkpoint_itself_is_tried(
    edited: EditCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user has no entry in /etc/passwd."""
    checkpoint = edited()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert ensure_converted(checkpoint, progress=False) == checkpoint / "twostage"
    shutil.rmtree(checkpoint / "twostage")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=r"^\S*/checkpoint/twostage cannot be written"):
        ensure_converted(checkpoint, progress=False)


def test_a_conversion_that_lies_in_a_read_only_checkpoint_is_used(
    converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    os.utime(converted.parent / "model.pt", ns=(1, 1))
    assert is_kept(converted)


def test_too_little_disk_is_said_before_anything_is_written(
    edited: EditCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = edited()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**7, 10**7))
    with pytest.raises(ConfigError, match=r"needs 0\.01 GB of free space, but its disk has 0\.01 GB"):
        ensure_converted(checkpoint, progress=False)
    assert not (checkpoint / "twostage").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 2 * 10**7))
    assert ensure_converted(checkpoint, progress=False)


@pytest.mark.parametrize(
    ("names", "stranger"),
    [
        (["thesis.doc"], "thesis.doc"),
        (["engine.json", "thesis.doc"], "thesis.doc"),
        (["acoustic.safetensors"], "acoustic.safetensors"),  # ours by name, but there is no engine.json beside it
    ],
)
def test_somebody_elses_files_are_never_touched(
    edited: EditCheckpoint, tmp_path: Path, names: list[str], stranger: str
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    for name in names:
        (output / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"holds {stranger}, which no conversion wrote"):
        ensure_converted(edited(), output=output, force=True, progress=False)
    assert {entry.name: entry.read_text() for entry in output.iterdir()} == dict.fromkeys(names, "mine")


def test_an_output_that_is_a_file_is_refused(edited: EditCheckpoint, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        ensure_converted(edited(), output=tmp_path / "output", progress=False)


def test_an_empty_or_nested_new_output_is_filled(edited: EditCheckpoint, tmp_path: Path) -> None:
    checkpoint = edited()
    (tmp_path / "empty").mkdir()
    for output in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert ensure_converted(checkpoint, output=output, progress=False) == output
        assert (output / "engine.json").is_file()


def test_a_failure_half_way_leaves_the_old_conversion(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in converted.rglob("*"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_sharded", fail)
    with pytest.raises(ConfigError, match="No space left on device"):
        ensure_converted(converted.parent, force=True, progress=False)
    assert sorted((path, path.stat().st_mtime_ns) for path in converted.rglob("*")) == before
    assert not list(converted.parent.glob(".*.partial"))


def test_a_failed_rename_restores_the_old_conversion(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inode, rename = converted.stat().st_ino, Path.rename

    def fail_for_partial(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("no luck")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_partial)
    with pytest.raises(ConfigError, match="no luck"):
        ensure_converted(converted.parent, force=True, progress=False)
    assert converted.stat().st_ino == inode


def test_a_source_that_changes_under_the_conversion_is_noticed(
    edited: EditCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = edited()
    write = export.write_sharded

    def touch_and_write(*arguments: object) -> None:
        os.utime(checkpoint / "model.pt", ns=(1, 1))
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "write_sharded", touch_and_write)
    with pytest.raises(CheckpointError, match=r"model\.pt changed while being converted"):
        ensure_converted(checkpoint, progress=False)
    assert not (checkpoint / "twostage").exists()


def test_what_a_killed_run_left_is_removed(edited: EditCheckpoint) -> None:
    checkpoint = edited()
    for kind in ("partial", "old"):
        (checkpoint / f".twostage.{kind}" / "llm").mkdir(parents=True)
        (checkpoint / f".twostage.{kind}" / "engine.json").write_text("{}")
    ensure_converted(checkpoint, progress=False)
    names = {entry.name for entry in checkpoint.iterdir() if "twostage" in entry.name}
    assert names == {"twostage", ".twostage.lock"}


def test_a_killed_reconversion_is_cleaned_up_though_the_old_conversion_still_serves(converted: Path) -> None:
    partial = converted.parent / ".twostage.partial"
    partial.mkdir()
    with FileLock(converted.parent / ".twostage.lock"):
        assert ensure_converted(converted.parent, progress=False) == converted
        assert partial.exists(), "whoever holds the lock is still filling it"
    assert is_kept(converted)
    assert not partial.exists()


def test_an_unknown_dtype_is_refused(edited: EditCheckpoint) -> None:
    with pytest.raises(ConfigError, match="dtype is 'int8'; one of keep, bf16, fp16, fp32"):
        ensure_converted(edited(), dtype="int8")


def test_progress_is_shown_in_bytes_on_a_terminal_and_can_be_off(
    edited: EditCheckpoint,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    checkpoint = edited()
    ensure_converted(checkpoint, progress=False)
    assert capsys.readouterr() == ("", "")
    ensure_converted(checkpoint, force=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "converting checkpoint: 100%" in shown.err and "B/s" in shown.err
