"""The metrics that Prometheus reads at /metrics."""

import itertools
import operator
import time
from collections import deque
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ..timeline import Stage, Timeline
from ..transcript import Transcript

CONTENT_TYPE = CONTENT_TYPE_LATEST

LAGS = 150  # event loop lags that are kept: ten a second for 15 s, the usual time between two scrapes
LARGEST = {"twostage_loop_lag_seconds", "twostage_queue_clips"}  # of several processes
LEAST = {"twostage_ready"}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RTFX = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "twostage_requests", "Requests by path and HTTP status", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "twostage_request_seconds", "From the first byte to the last", ["path"], buckets=_SECONDS, registry=registry
        )
        self.refused_connections = Counter(
            "twostage_refused_connections", "Connections refused or dropped", ["reason"], registry=registry
        )
        self.active_sessions = Gauge("twostage_active_sessions", "WebSockets open", ["protocol"], registry=registry)
        self.sessions = Counter(
            "twostage_sessions", "WebSockets by protocol and close code", ["protocol", "code"], registry=registry
        )
        self._audio_seconds = Counter("twostage_audio_seconds", "Audio transcribed", registry=registry)
        self._rtfx = Histogram(
            "twostage_rtfx", "Audio per second from submission to text", buckets=_RTFX, registry=registry
        )
        self._transcripts = Counter("twostage_transcripts", "Transcripts by status", ["status"], registry=registry)
        self._warnings = Counter("twostage_warnings", "Warnings on transcripts", ["code"], registry=registry)
        self._stage_seconds = Histogram(
            "twostage_stage_seconds",
            "Time of one piece of a stage's work",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_clips = Histogram(
            "twostage_encode_batch_clips", "Clips encoded together", buckets=_CLIPS, registry=registry
        )

        self.last_tick = time.monotonic()  # of the event loop
        self._lags: deque[float] = deque([0.0], maxlen=LAGS)
        self.watch("twostage_loop_lag_seconds", "The longest of the last 15 s", lambda: max(self._lags))

    def tick(self, interval_s: float) -> None:
        """Record a turn of the event loop, which is due `interval_s` after the one before."""
        now = time.monotonic()
        self._lags.append(max(now - self.last_tick - interval_s, 0.0))
        self.last_tick = now

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value `read` gives at each scrape."""
        Gauge(name, what, registry=self._registry).set_function(read)

    def count(self, transcript: Transcript, wall_s: float | None = None) -> None:
        """Count one transcript. `wall_s`: seconds that it took; None for live audio."""
        self._transcripts.labels(transcript.status).inc()
        self._audio_seconds.inc(transcript.duration)
        if wall_s is not None:
            self._rtfx.observe(transcript.duration / max(wall_s, 1e-6))
        for warning in transcript.warnings:
            self._warnings.labels(warning.code).inc()

    def stage(self, stage: Stage, seconds: float, num_clips: int) -> None:
        self._stage_seconds.labels(stage).observe(seconds)
        if stage == "encode" and num_clips:
            self._batch_clips.observe(num_clips)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)

    def families(self) -> list[Metric]:
        """Everything, as objects that merged() joins with those of other processes."""
        return list(self._registry.collect())


class _Families:
    """What generate_latest() writes of a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(processes: Iterable[Iterable[Metric]]) -> list[Metric]:
    """The metrics of several processes as those of one server: sums, except for what LARGEST and LEAST name."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for metric in itertools.chain.from_iterable(processes):
        families.setdefault(metric.name, metric)
        found = values.setdefault(metric.name, {})
        for sample in metric.samples:
            place = (sample.name, tuple(sorted(sample.labels.items())))
            if place in found:
                found[place] = _joined(sample.name)(found[place], sample.value)
            else:
                found[place] = sample.value
    result = []
    for name, first in families.items():
        result.append(metric := Metric(name, first.documentation, first.type, first.unit))
        for (sample_name, labels), value in values[name].items():
            metric.add_sample(sample_name, dict(labels), value)
    return result


def merged_text(processes: Iterable[Iterable[Metric]]) -> bytes:
    """`merged`, in Prometheus' text format."""
    return generate_latest(_Families(merged(processes)))


def counters_of(metrics: Iterable[Metric]) -> list[Metric]:
    """What only grows, and must not shrink when a process ends."""
    return [metric for metric in metrics if metric.type in ("counter", "histogram")]


def _joined(name: str) -> Callable[[float, float], float]:
    if name in LARGEST:
        return max
    return min if name in LEAST or name.endswith("_created") else operator.add


class MetricsTimeline(Timeline):
    """A timeline that adds its spans to the metrics instead of keeping them."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def add(self, stage: Stage, started: float, num_clips: int) -> None:
        self._metrics.stage(stage, time.perf_counter() - started, num_clips)
