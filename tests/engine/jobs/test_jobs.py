"""Jobs: whatever ends a process, a rerun ends with the same files, and no input is done twice."""

import errno
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.jobs.worker import spec, transcribe
from tests.paths import ROOT
from tests.processes import wait_until
from twostage_asr.engine import ConfigError, Transcript
from twostage_asr.engine.jobs import JobFolder, JobRun, job_status, journal, run
from twostage_asr.engine.jobs.journal import Journal, read_journal
from twostage_asr.engine.jobs.lease import take_lease


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A list of 60 inputs, two of them bad."""
    names = [f"bad{i}" if i in (7, 33) else f"clip{i}" for i in range(60)]
    path = tmp_path / "wav.scp"
    path.write_text("".join(f"{name} {name}.wav\n" for name in names))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "POLL_S", 0.01)


def opened(output: Path, inputs: Path, **changes: object) -> JobFolder:
    folder = JobFolder.open(output, spec(inputs, 7, **changes))
    assert folder is not None
    return folder


def work(folder: JobFolder, *, retry_failed: bool = False) -> list[str]:
    with JobRun(folder, retry_failed=retry_failed) as job:
        return [transcript.key for transcript in job.run(transcribe)]


def shards(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "transcripts").iterdir())}


def worker(output: Path, inputs: Path, delay_ms: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.engine.jobs.worker", output, inputs, "7", str(delay_ms)]
    return subprocess.Popen(command, cwd=ROOT)


def done(output: Path) -> list[str]:
    path = Path(f"{output}.done")
    return path.read_text().split() if path.exists() else []


def test_lines_are_in_the_order_of_the_inputs(tmp_path: Path, inputs: Path) -> None:
    work(opened(tmp_path / "out", inputs))
    lines = b"".join(shards(tmp_path / "out").values()).decode().splitlines()
    keys = [line.split()[0] for line in inputs.read_text().splitlines()]
    assert [Transcript.from_json(line).key for line in lines] == keys
    assert list((tmp_path / "out" / "journals").iterdir()) == list((tmp_path / "out" / "leases").iterdir()) == []


def test_after_kills_at_any_moment_the_files_are_those_of_one_run(tmp_path: Path, inputs: Path) -> None:
    work(opened(tmp_path / "whole", inputs))
    output, chance = tmp_path / "killed", random.Random(1)
    for _ in range(8):
        before, process = len(done(output)), worker(output, inputs, 2)
        enough = before + chance.randrange(8)
        wait_until(lambda at_least=enough, p=process: len(done(output)) > at_least or p.poll() is not None)
        process.kill()
        process.wait()
    work(opened(output, inputs))
    assert shards(output) == shards(tmp_path / "whole")
    assert [key for key, count in Counter(done(output)).items() if count > 1] == []


def test_two_processes_share_a_job(tmp_path: Path, inputs: Path) -> None:
    work(opened(tmp_path / "whole", inputs))
    both = [worker(tmp_path / "out", inputs, 5) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")
    assert len(done(tmp_path / "out")) == len(set(done(tmp_path / "out"))) == 60


@given(cut=st.integers(0, 400), flip=st.integers(0, 399))
@settings(max_examples=60)
def test_a_journal_cut_or_damaged_anywhere_gives_its_first_records(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "000000.a"
    with Journal(path) as written:
        ends = [0]
        for position in range(4):
            written.append(position, Transcript(f"k\ud800{position}", text="x"))
            ends.append(path.stat().st_size)
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    assert [record.position for record in read_journal(path)] == list(range(sum(end <= cut for end in ends[1:])))
    path.write_bytes(content[:flip] + bytes([content[flip] ^ 1]) + content[flip + 1 :])
    assert [record.position for record in read_journal(path)] == list(range(sum(end <= flip for end in ends[1:])))


def test_a_full_disk_stops_with_an_error_and_the_rest_is_done_later(
    tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(opened(tmp_path / "whole", inputs))
    write, room = os.write, [3000]

    def limited(file: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        size = min(len(content), room[0])
        room[0] -= size
        return write(file, content[:size])

    folder = opened(tmp_path / "out", inputs)
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", limited)
        with pytest.raises(OSError, match="No space left") as raised:
            work(folder)
    assert "journals" in raised.value.filename
    status = job_status(folder.directory)
    assert status.left and status.done + status.failed + status.left == 60
    assert len(work(folder)) == status.left
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")


def test_what_failed_is_tried_again_on_demand_alone(
    tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened(tmp_path / "out", inputs, formats=("srt",))
    work(folder)
    status = job_status(folder.directory)
    assert (status.done, status.failed, status.left) == (58, 2, 0)
    assert work(folder) == [] and sorted(work(folder, retry_failed=True)) == ["bad33", "bad7"]
    monkeypatch.setattr("tests.engine.jobs.worker.answer", lambda item: Transcript(item.key))
    assert sorted(work(folder, retry_failed=True)) == ["bad33", "bad7"]
    assert (job_status(folder.directory).failed, work(folder, retry_failed=True)) == (0, [])
    assert len(list((tmp_path / "out" / "srt").iterdir())) == 60


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path, inputs: Path) -> None:
    folder = opened(tmp_path / "out", inputs)
    (folder.directory / "workers" / "000003.part999999").write_bytes(b"half")
    work(folder)
    assert list((folder.directory / "workers").iterdir()) == []


def test_another_specification_is_refused_by_name(tmp_path: Path, inputs: Path) -> None:
    opened(tmp_path / "out", inputs, options={"language": "zh"})
    with pytest.raises(ConfigError, match=r"options.language was 'zh' and is now 'en'"):
        opened(tmp_path / "out", inputs, options={"language": "en"})


def test_the_plan_stays_when_the_folder_changes(tmp_path: Path) -> None:
    for name in ("b.wav", "a.wav", "a.mp3", "notes.txt", "deep/c.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    folder = opened(tmp_path / "out", tmp_path / "in")
    (tmp_path / "in" / "0.wav").touch()
    again = opened(tmp_path / "out", tmp_path / "in")
    assert [item.key for item in again.plan.inputs(0)] == ["a.mp3", "a.wav", "b", "deep/c"]
    assert (folder.plan.num_inputs, folder.plan.num_passed_over) == (4, 1)


def test_keys_that_occur_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.scp").write_text("x 1.wav\ny 2.wav\nx 3.wav\n")
    with pytest.raises(ConfigError, match="2 inputs have the key 'x'"):
        opened(tmp_path / "out", tmp_path / "a.scp")


def test_a_lease_is_over_when_its_owner_is_dead_or_silent(tmp_path: Path) -> None:
    held = take_lease(tmp_path, "a")
    assert held is not None and take_lease(tmp_path, "a") is None
    foreign = next(tmp_path.iterdir())
    foreign.write_bytes(b"another machine")
    assert take_lease(tmp_path, "a", expiry_s=60) is None
    os.utime(foreign, (time.time() - 100, time.time() - 100))
    taken = take_lease(tmp_path, "a", expiry_s=60)
    assert taken is not None and taken.is_held and not held.is_held
    held.close()
    assert taken.is_held


def test_a_closed_lease_touches_no_file_that_has_its_descriptor_now(tmp_path: Path) -> None:
    lease = take_lease(tmp_path, "shard")
    assert lease is not None
    shard = run._Shard(0, lease, Journal(tmp_path / "journal"), 1)
    shard.journal.append(0, Transcript("clip", text=""))
    shard.close()
    audio = tmp_path / "input.wav"
    descriptors = [os.open(audio, os.O_RDWR | os.O_CREAT) for _ in range(2)]
    os.utime(audio, (1.0, 1.0))
    shard.beat()
    assert audio.stat().st_mtime == 1.0
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.parametrize(
    "name", ["transcripts/all.jsonl", "transcripts/000001.old.jsonl", "transcripts/999999.jsonl", "journals/.nfs01"]
)
def test_foreign_files_in_the_folder_count_for_nothing(tmp_path: Path, inputs: Path, name: str) -> None:
    folder = opened(tmp_path / "out", inputs)
    for foreign in (name, "leases/000000.jsonl.old", "workers/mine.json"):
        (folder.directory / foreign).write_text("[]")
    assert len(work(folder)) == 60
    assert job_status(folder.directory).done == 58


@pytest.mark.parametrize("content", [b"x\n", b"[]\n", b'{"source": "a.wav"}\n'])
def test_a_damaged_file_of_the_job_is_named(tmp_path: Path, inputs: Path, content: bytes) -> None:
    folder = opened(tmp_path / "out", inputs)
    planned = folder.directory / "inputs" / "000000.jsonl"
    whole = planned.read_bytes()
    planned.write_bytes(content)
    with pytest.raises(ConfigError, match=r"inputs/000000\.jsonl .*begin a new job"):
        work(folder)
    planned.write_bytes(whole)
    work(folder)
    folder.report_path(0).unlink()
    folder.shard_path(0).write_bytes(content)
    with pytest.raises(ConfigError, match=r"transcripts/000000\.jsonl, line 1 is no transcript"):
        job_status(folder.directory)


def test_status_is_seen_from_another_process(tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BEAT_S", 0.01)
    folder = opened(tmp_path / "out", inputs)
    with JobRun(folder) as job:
        results = job.run(transcribe)
        for _ in range(20):
            next(results)
        wait_until(lambda: job_status(folder.directory).num_workers == 1)
        seen = job_status(folder.directory)
        results.close()
    assert (seen.done, seen.failed, seen.left) == (19, 1, 40)
    assert seen.files_per_s > 0 and seen.eta_s == pytest.approx(40 / seen.files_per_s)
    assert job_status(folder.directory).num_workers == 0
