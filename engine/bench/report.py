"""The report of a benchmark, as JSON and as the lines that the command prints."""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .measure import Latency, Pass

WITH_TIMES = {False: "without word times", True: "with word times"}
COLUMNS = (
    "clips", "kept in", "word times", "pass", "wall s", "RTFx", "tokens/s", "read s", "encode s", "decode s", "align s",
    "in stage 2", "first s", "p50 s", "p95 s", "GPU busy", "RSS GB", "peak GB", "others GB",
)  # fmt: skip
LATENCY_COLUMNS = (
    "clips at once", "kept in", "word times", "audio s", "passes", "mean ms", "p50 ms", "p90 ms", "p95 ms", "p99 ms",
    "stage 1 p50 ms", "RTFx",
)  # fmt: skip


class _Measured(Protocol):
    """A pass or a latency of either engine."""

    @property
    def form(self) -> str: ...
    @property
    def num_clips(self) -> int: ...
    @property
    def timestamps(self) -> bool: ...


class Kind(NamedTuple):
    """Identifies a measurement, so that passes and engines can be compared."""

    form: str  # see Load
    num_clips: int
    timestamps: bool

    @classmethod
    def of(cls, one: _Measured) -> "Kind":
        return cls(one.form, one.num_clips, one.timestamps)

    def __str__(self) -> str:
        return f"{self.num_clips:,} clip(s), {self.form}, {WITH_TIMES[self.timestamps]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPass:
    """The figures of one pass by another engine."""

    form: str
    num_clips: int
    timestamps: bool
    is_warm: bool
    wall_s: float
    rtfx: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLatency:
    """The latency of a few clips at once by another engine."""

    form: str
    num_clips: int
    timestamps: bool
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerReport:
    """Another engine's figures for the same clips, up to a failure if there was one."""

    name: str
    version: str | None
    error: str | None
    passes: list[PeerPass]
    latency: list[PeerLatency]


@dataclass(slots=True, kw_only=True)
class Report:
    """One run of the command. Times are seconds, sizes bytes, shares within [0, 1]."""

    date: str  # when it was made, UTC
    load: str
    scope: str
    engine: dict[str, Any]  # the engine's options, and the values that it chose
    versions: dict[str, str]
    hardware: dict[str, object]
    prepare_s: float  # making or finding the model, converting it, writing the clips
    load_s: float = 0.0  # loading both stages
    first_text_s: float | None = None  # from the start of the process, without prepare_s
    passes: list[Pass] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    memory: dict[str, int | None] = field(default_factory=dict)
    gpu_busy_unknown: str | None = None  # why gpu_busy_share is null
    peer: PeerReport | None = None

    def write_json(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


class _Timed(_Measured, Protocol):
    """A pass of either engine."""

    @property
    def is_warm(self) -> bool: ...
    @property
    def rtfx(self) -> float: ...


def median_rtfx(passes: Iterable[_Timed]) -> dict[Kind, float]:
    """Median RTFx of the warm passes of each kind, or of the cold pass if there is no warm one."""
    found: dict[Kind, list[_Timed]] = {}
    for one in passes:
        found.setdefault(Kind.of(one), []).append(one)
    return {
        kind: statistics.median([one.rtfx for one in those if one.is_warm] or [one.rtfx for one in those])
        for kind, those in found.items()
    }


def word_times_share(passes: Iterable[_Timed]) -> dict[Kind, float]:
    """The share of wall time that word times take, for each kind that was also measured without them."""
    medians = median_rtfx(passes)
    pairs = [(kind, rtfx, medians.get(kind._replace(timestamps=False))) for kind, rtfx in medians.items()]
    return {kind: 1 - rtfx / without for kind, rtfx, without in pairs if kind.timestamps and without}


def head(report: Report) -> Iterator[str]:
    """Lines about the machine, the versions and the load, and the header of the table of passes."""
    yield ", ".join(f"{name} {version}" for name, version in report.versions.items())
    machine = report.hardware
    yield f"{machine['gpu'] or 'no GPU'}; {machine['cpu']}, {machine['cores']} cores"
    yield f"{report.load}. {report.scope}"
    yield f"prepared in {report.prepare_s:.1f} s, loaded in {report.load_s:.1f} s"
    if report.gpu_busy_unknown:
        yield f"GPU busy is unknown: {report.gpu_busy_unknown}"
    yield "  ".join(COLUMNS)


def row(one: Pass) -> str:
    """The table row of a pass, below COLUMNS."""
    stages = [f"{one.stage_s[stage]:.2f}" for stage in ("read", "encode", "decode", "align")]
    cells = [
        str(one.num_clips),
        one.form,
        "yes" if one.timestamps else "no",
        "warm" if one.is_warm else "cold",
        f"{one.wall_s:.2f}",
        f"{one.rtfx:.1f}",
        f"{one.tokens_per_s:.0f}",
        *stages,
        str(one.most_in_stage_2),
        f"{one.first_result_s:.2f}",
        _number(one.latency_p50_s, "{:.2f}"),
        _number(one.latency_p95_s, "{:.2f}"),
        _number(one.gpu_busy_share, "{:.0%}"),
        *(f"{size / 1e9:.2f}" for size in (one.rss_bytes, one.peak_rss_bytes, one.others_rss_bytes)),
    ]
    return "  ".join(cell.rjust(len(title)) for cell, title in zip(cells, COLUMNS, strict=True))


def _latency_row(one: Latency) -> str:
    """The table row of a latency, below LATENCY_COLUMNS."""
    quantiles = (one.mean_s, one.p50_s, one.p90_s, one.p95_s, one.p99_s, one.encode_p50_s)
    cells = [
        str(one.num_clips),
        one.form,
        "yes" if one.timestamps else "no",
        f"{one.audio_s:.1f}",
        str(one.num_passes),
        *(_number(None if seconds is None else 1000 * seconds, "{:.1f}") for seconds in quantiles),
        f"{one.rtfx:.2f}",
    ]
    return "  ".join(cell.rjust(len(title)) for cell, title in zip(cells, LATENCY_COLUMNS, strict=True))


def tail(report: Report) -> Iterator[str]:
    """Lines that are printed after all passes: failures, word times, latencies, first text, memory."""
    failed = {key: error for one in report.passes for key, error in one.failed.items()}
    for key, error in failed.items():
        yield f"FAILED {key}: {error}"
    for kind, share in word_times_share(report.passes).items():
        yield f"word times take {share:.0%} of the wall time of {kind.num_clips:,} clip(s), {kind.form}"
    if report.latency:
        yield "  ".join(LATENCY_COLUMNS)
    yield from map(_latency_row, report.latency)
    if report.first_text_s is not None:
        yield f"first text {report.first_text_s:.1f} s after the process started, preparation left out"
    memory = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in report.memory.items() if size is not None)
    yield f"memory: {memory}"


def side_by_side(report: Report, peer: PeerReport) -> Iterator[str]:
    """A table with our figures, the peer's, and how many times faster ours are."""
    if peer.error:
        yield f"{peer.name}: {peer.error}"
    lines = [("", "twostage-asr", f"{peer.name} {peer.version or ''}".strip(), "ratio")]
    their_rtfx = median_rtfx(peer.passes)
    for kind, ours in median_rtfx(report.passes).items():
        theirs = their_rtfx.get(kind)
        others = (f"{theirs:.1f}", f"{ours / theirs:.2f}") if theirs else ("not run", "")
        lines.append((f"{kind}: RTFx", f"{ours:.1f}", *others))
    their_latency = {Kind.of(one): one for one in peer.latency}
    for ours_few in report.latency:
        if theirs_few := their_latency.get(Kind.of(ours_few)):
            lines += _latencies(ours_few, theirs_few)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *cells in lines:
        yield "  ".join([first.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()


def _latencies(ours: Latency, theirs: PeerLatency) -> Iterator[tuple[str, str, str, str]]:
    for name in ("p50_s", "p95_s"):
        our_s, their_s = getattr(ours, name), getattr(theirs, name)
        if our_s and their_s:
            title = f"{Kind.of(ours)}, at once: {name[:3]} in ms"
            yield title, f"{1000 * our_s:.0f}", f"{1000 * their_s:.0f}", f"{their_s / our_s:.2f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
