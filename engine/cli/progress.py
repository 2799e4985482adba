"""How far a run over files, or through one recording, is while it runs, and at its end.

On a terminal the progress is a bar on stderr. Elsewhere it is a line every LINE_S seconds, so that a log tells of a run
of hours without growing by a line for each file.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from ..closing import Closing
from ..jobs.status import clock_time
from ..transcript import Transcript

LINE_S = 30.0  # between two lines, where there is no terminal
_BAR = "{percentage:3.0f}%|{bar:20}| {desc}"


@dataclass(slots=True)
class Counts:
    """What has been transcribed. Times are those of `clock`, in seconds."""

    total: int  # files
    clock: Callable[[], float] = time.perf_counter
    started: float = field(init=False)  # of the program's work
    loaded: float | None = None  # when the model had been loaded
    num_files: int = 0
    audio_s: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)  # key -> reason
    warnings: Counter[str] = field(default_factory=Counter)  # warning code -> number of transcripts that have it

    def __post_init__(self) -> None:
        self.started = self.clock()

    def add(self, transcript: Transcript) -> None:
        self.num_files += 1
        self.audio_s += transcript.duration
        if transcript.status == "error":
            self.failed[transcript.key] = transcript.error or ""
        self.warnings.update({warning.code for warning in transcript.warnings})

    @property
    def wall_s(self) -> float:
        """Seconds since the model was loaded."""
        return 0.0 if self.loaded is None else self.clock() - self.loaded

    def progress(self) -> str:
        """One line: files, audio, seconds of audio in a second (RTFx), and the time that is left at this rate."""
        wall_s = self.wall_s
        parts = [f"{self.num_files} of {self.total} files", f"{amount(self.audio_s)} of audio"]
        if wall_s > 0 and self.num_files:
            parts.append(f"RTFx {self.audio_s / wall_s:.1f}")
            parts.append(f"ETA {clock_time(wall_s / self.num_files * (self.total - self.num_files))}")
        return ", ".join(parts)

    def summary(self, where: str | None = None) -> Iterator[str]:
        """The lines at the end of a run; `where` says where the outputs lie."""
        files = f"{self.num_files} file{'' if self.num_files == 1 else 's'}"
        if self.loaded is None:
            yield f"{files}; no model was loaded"
        else:
            rate = f" (RTFx {self.audio_s / self.wall_s:.1f})" if self.audio_s and self.wall_s else ""
            loading = f"loading took {self.loaded - self.started:.1f} s"
            yield f"{files}, {amount(self.audio_s)} of audio in {amount(self.wall_s)}{rate}; {loading}"
        counted = ", ".join(f"{code} {count}" for code, count in sorted(self.warnings.items()))
        yield f"{len(self.failed)} failed; " + (f"warnings: {counted}" if counted else "no warnings")
        if where is not None and self.num_files > len(self.failed):
            yield f"written: {where}"


class Progress(Closing):
    """Shows how far a run is."""

    def __init__(self, counts: Counts, *, every_s: float = LINE_S) -> None:
        self._counts = counts
        self._every_s = every_s
        self._said = counts.clock()
        self._bar = tqdm(total=counts.total, initial=counts.num_files, bar_format=_BAR, disable=None)
        self._bar.set_description_str(counts.progress())

    def add(self, transcript: Transcript) -> None:
        """Count a transcript."""
        counts = self._counts
        counts.add(transcript)
        if not self._bar.disable:
            self._bar.set_description_str(counts.progress(), refresh=False)
            self._bar.update()
        elif counts.clock() - self._said >= self._every_s:
            self._said = counts.clock()
            self.tell([counts.progress()])

    def tell(self, lines: Iterable[str], *, is_result: bool = False) -> None:
        """Print lines above the bar: results on stdout, remarks on stderr."""
        for line in lines:
            tqdm.write(line, file=sys.stdout if is_result else sys.stderr)

    def close(self) -> None:
        self._bar.close()


class AudioProgress(Closing):
    """Shows how far through one recording a run is."""

    def __init__(
        self, total_s: float, *, every_s: float = LINE_S, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._total_s = total_s
        self._every_s = every_s
        self._clock = clock
        self._started = self._said = clock()
        self._bar = tqdm(total=total_s, bar_format=_BAR, disable=None)

    def show(self, done_s: float) -> None:
        """Tell how much of the recording is done; the rate is that since the first call, with 0."""
        now = self._clock()
        if not done_s:
            self._started = self._said = now
        line = f"{amount(done_s)} of {amount(self._total_s)} of audio"
        if done_s and (wall_s := now - self._started) > 0:
            line += f", RTFx {done_s / wall_s:.1f}, ETA {clock_time(wall_s / done_s * (self._total_s - done_s))}"
        if not self._bar.disable:
            self._bar.set_description_str(line, refresh=False)
            self._bar.update(done_s - self._bar.n)
        elif now - self._said >= self._every_s:
            self._said = now
            print(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def amount(seconds: float) -> str:
    """A duration in the unit that people would use."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"
