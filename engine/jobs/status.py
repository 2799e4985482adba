"""How far a job is, for anybody who can read its folder."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .folder import JobFolder
from .lease import BEAT_S
from .plan import Plan

STALE_S = 4 * BEAT_S  # a process that has not said its rate for so long is not counted


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Figures of a whole job."""

    done: int  # inputs that were transcribed
    failed: int  # inputs whose line is an error
    left: int
    audio_s: float  # of what was done or failed
    num_workers: int  # processes at work
    files_per_s: float  # of these, since each began
    audio_per_s: float  # seconds of audio in a second

    @property
    def eta_s(self) -> float | None:
        """Seconds until the end at this rate; None while nothing is done."""
        return self.left / self.files_per_s if self.files_per_s else None

    def __str__(self) -> str:
        eta = "unknown" if self.eta_s is None else clock_time(self.eta_s)
        return (
            f"{self.done} done, {self.failed} failed, {self.left} left; {self.audio_s / 3600:.2f} h of audio; "
            f"{self.num_workers} processes, {self.files_per_s:.1f} files/s, {self.audio_per_s:.1f} times real time; "
            f"ETA {eta}"
        )


def job_status(directory: Path) -> JobStatus:
    """Read the figures. Raises ConfigError if there is no job."""
    plan = Plan.read(directory)
    if plan is None:
        raise ConfigError(f"{directory} holds no job, or its inputs are still being listed")
    folder = JobFolder(plan)
    complete = folder.complete()
    reports = [folder.report(shard) for shard in complete]
    lines = [record for shard in folder.journaled_shards() - complete for record in folder.journaled(shard).values()]
    failed = sum(len(report.failed) for report in reports) + sum(not record.is_ok for record in lines)
    over = sum(report.num_inputs for report in reports) + len(lines)
    audio_s = sum(report.audio_s for report in reports) + sum(record.duration for record in lines)
    rates = _rates(directory / "workers")
    files_per_s, audio_per_s = (sum(column) for column in zip(*rates, strict=True)) if rates else (0.0, 0.0)
    return JobStatus(over - failed, failed, plan.num_inputs - over, audio_s, len(rates), files_per_s, audio_per_s)


def _rates(folder: Path) -> list[tuple[float, float]]:
    """(files, seconds of audio) in a second of each process that has said so lately."""
    rates = []
    for path in folder.glob("*.json"):
        try:
            if time.time() - path.stat().st_mtime < STALE_S:
                data = json.loads(path.read_bytes())
                rates.append((data["files_per_s"], data["audio_per_s"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # just ended, or another program's
            continue
    return rates


def clock_time(seconds: float) -> str:
    """h:mm:ss"""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}"
