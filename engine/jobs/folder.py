"""The folder of a job, and how a shard's lines become its file.

    job.json               what was asked for, and how many inputs there are (plan.py)
    inputs/000042.jsonl    the inputs of a shard, in order
    journals/000042.*      what processes have finished of a shard that is not complete (journal.py)
    leases/                who works on what (lease.py)
    workers/               how fast each process is, for --status; shards that are being written
    transcripts/000042.jsonl  a complete shard: line n is the transcript, or the error, of input n
    reports/000042.json    its figures; they can be computed again from the shard
    srt/..., vtt/...       the other formats that were asked for, one file for each key

A shard's file appears as a whole (rename), after its journals hold a record for each input, and its journals are
removed after that. So at any moment a line is in the shard's file or in a journal, and a rerun does what is in
neither.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from ..errors import ConfigError
from ..isolation import alone
from ..transcript import Transcript
from ..writers import SubtitleShape, formatted, replace_text, replacing
from ..writers.names import file_name
from .journal import Record, read_journal
from .lease import take_lease
from .plan import JobSpec, Plan, make_plan, replace_file, shard_name

FOLDERS = ("journals", "leases", "workers", "transcripts", "reports")
PLAN_LEASE = "plan"

Lines = Mapping[int, Record]  # by the position of the input


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The figures of a complete shard."""

    num_inputs: int
    failed: tuple[int, ...]  # positions
    audio_s: float

    @classmethod
    def of(cls, lines: Lines) -> Self:
        failed = tuple(sorted(position for position, record in lines.items() if not record.is_ok))
        return cls(len(lines), failed, round(sum(record.duration for record in lines.values()), 3))


@dataclass(frozen=True, slots=True)
class JobFolder:
    """A job that has a plan."""

    plan: Plan
    formats: tuple[str, ...] = ()
    shape: SubtitleShape | None = None

    @classmethod
    def open(cls, directory: Path, spec: JobSpec) -> Self | None:
        """Make the plan, or check that it is this specification's. None while another process makes it.

        Raises:
            ConfigError: the job was begun with another specification; or see make_plan.
            OSError: something cannot be listed or written.
        """
        if (plan := Plan.read(directory)) is None:
            if directory.is_dir() and any(directory.iterdir()) and not (directory / "leases").is_dir():
                raise ConfigError(f"{directory} is not empty, and holds no job: give a new folder")
            for name in FOLDERS:
                (directory / name).mkdir(parents=True, exist_ok=True)
            if (lease := take_lease(directory / "leases", PLAN_LEASE)) is None:
                return None
            with lease:
                plan = Plan.read(directory) or make_plan(directory, spec)
        plan.require(spec)
        return cls.of(plan)

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The folder of a plan."""
        shape = plan.spec["shape"]
        return cls(plan, tuple(plan.spec["formats"]), None if shape is None else SubtitleShape(**shape))

    @property
    def directory(self) -> Path:
        return self.plan.directory

    def shard_path(self, shard: int) -> Path:
        return self.directory / "transcripts" / shard_name(shard)

    def report_path(self, shard: int) -> Path:
        return (self.directory / "reports" / shard_name(shard)).with_suffix(".json")

    def journal_path(self, shard: int, writer: str) -> Path:
        """The journal of one writer."""
        return self.directory / "journals" / f"{self.shard_path(shard).stem}.{writer}"

    def journal_paths(self, shard: int) -> list[Path]:
        """The journals of a shard, by the names of their writers."""
        pattern = self.journal_path(shard, "*")
        return sorted(pattern.parent.glob(pattern.name))

    def complete(self) -> set[int]:
        """The shards that are complete. Files of other names, which users and file systems make, count for nothing."""
        names = set(os.listdir(self.directory / "transcripts"))
        return {shard for shard in range(self.plan.num_shards) if shard_name(shard) in names}

    def journaled_shards(self) -> set[int]:
        """The shards that have journals."""
        begun = {name.partition(".")[0] for name in os.listdir(self.directory / "journals")}
        return {shard for shard in range(self.plan.num_shards) if self.shard_path(shard).stem in begun}

    def journaled(self, shard: int) -> dict[int, Record]:
        """What the journals of a shard hold; of two records of one input, the first."""
        lines: dict[int, Record] = {}
        for path in self.journal_paths(shard):
            for record in read_journal(path):
                lines.setdefault(record.position, record)
        return lines

    def published(self, shard: int) -> dict[int, Record]:
        """What the shard's file holds; nothing if it is not complete. Raises ConfigError if it is damaged."""
        path = self.shard_path(shard)
        return {record.position: record for record in _read_shard(path)} if path.exists() else {}

    def report(self, shard: int) -> ShardReport:
        """The figures of a complete shard."""
        try:
            data = json.loads(self.report_path(shard).read_bytes())
            return ShardReport(data["num_inputs"], tuple(data["failed"]), data["audio_s"])
        except (OSError, ValueError, KeyError, TypeError):  # it was not written, or not to its end
            return ShardReport.of(self.published(shard))

    def publish(self, shard: int) -> None:
        """Make the shard's file of what it holds already and of its journals, which must hold what is missing."""
        journaled = self.journaled(shard)
        lines = self.published(shard) | journaled
        for record in journaled.values():
            self._write_files(record)
        part = self.directory / "workers" / f"{self.shard_path(shard).stem}.part{os.getpid()}"
        path = self.shard_path(shard)
        with contextlib.ExitStack() as opened, replacing(path, part=part, is_durable=True) as file:
            sources = {path: opened.enter_context(path.open("rb")) for path in {r.path for r in lines.values()}}
            for position in range(self.plan.size(shard)):
                file.write(_line(lines[position], sources[lines[position].path]))
        for left in part.parent.glob(f"{part.stem}.part*"):  # by processes that were killed here
            left.unlink(missing_ok=True)
        replace_file(self.report_path(shard), json.dumps(asdict(ShardReport.of(lines))).encode())
        for path in self.journal_paths(shard):
            path.unlink(missing_ok=True)

    def _write_files(self, record: Record) -> None:
        """The other formats of one transcript. A writer that fails for it is logged, and costs that file alone."""
        if not self.formats or not record.is_ok:
            return
        with record.path.open("rb") as journal:
            transcript = Transcript.from_json(_line(record, journal).decode())
        for name in self.formats:
            text = alone(f"writing {name}", transcript.key, partial(formatted, transcript, name, self.shape))
            if isinstance(text, str):
                path = self.directory / name / f"{file_name(transcript.key)}.{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_text(path, text)


def _line(record: Record, file: BinaryIO) -> bytes:
    file.seek(record.offset)
    return file.read(record.size)


def _read_shard(path: Path) -> Iterator[Record]:
    offset = 0
    with path.open("rb") as lines:
        for position, line in enumerate(lines):
            try:
                data = json.loads(line)
                yield Record(path, position, data["status"] == "ok", data["duration"], offset, len(line))
            except (ValueError, KeyError, TypeError) as error:
                said = f"{path}, line {position + 1} is no transcript: {error}"
                raise ConfigError(f"{said}; without this file, its inputs are done again") from error
            offset += len(line)
