"""`twostage-asr bench` from its options to its report."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ...convert.export import ensure_converted
from ..audio import SAMPLE_RATE
from ..auto import AutoModelVLLM
from ..config import EngineConfig
from ..errors import ConfigError
from ..families import family_named
from ..families.base import Request
from ..hub import HubName, resolve_model
from ..manifest import EngineManifest
from ..plot import require_matplotlib
from ..timeline import Timeline
from ..transcriber import Transcriber
from .figures import percentile_s
from .load import FEW_S, LANGUAGE, Form, Load, given_load, random_lengths, random_load
from .machine import gpu_busy_unknown, hardware, memory, process_age_s, versions
from .measure import FEW_PASSES, FEW_WARM_UPS, measure, measure_latency
from .peer import PeerJob, PeerName, PeerTask, run_peer
from .plot import plot
from .random_checkpoint import write_checkpoint
from .random_tower_families import write_glm_asr, write_qwen3_asr
from .report import WITH_TIMES, PeerLatency, PeerPass, PeerReport, Report, head, row, side_by_side, tail

Say = Callable[[str], None]
RandomFamily = Literal["fun_asr_nano", "qwen3_asr", "glm_asr"]
WRITERS: dict[RandomFamily, Callable[[Path], None]] = {
    "fun_asr_nano": write_checkpoint,
    "qwen3_asr": write_qwen3_asr,
    "glm_asr": write_glm_asr,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What the command is asked for."""

    model: str | None = None  # directory or hub id; None: the published sizes with random weights
    family: RandomFamily = "fun_asr_nano"  # of random weights
    hub: HubName = "ms"
    source: Path | None = None  # audio instead of random clips
    num_clips: int = 512  # random ones
    form: Form = "memory"  # of random clips
    timestamps: Sequence[bool] = (False, True)
    repeat: int = 3
    latency: Sequence[int] = ()  # so many clips at once, too, for each number
    peer: PeerName | None = None
    json_path: Path | None = None
    plot_path: Path | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)  # arguments of AutoModelVLLM

    def __post_init__(self) -> None:
        """Refuse, before anything takes minutes, what would fail after them."""
        for name, number in (("repeat", self.repeat), *(("latency", times) for times in self.latency)):
            if number < 1:
                raise ConfigError(f"{name} must be at least 1, got {number}")
        if self.source is not None and self.form != "memory":
            raise ConfigError("files of random clips and an input of one's own exclude each other")
        for path in (self.json_path, self.plot_path):
            if path is not None and not path.absolute().parent.is_dir():
                raise ConfigError(f"{path}: there is no such directory")
        if self.plot_path is not None:
            require_matplotlib("bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What lies ready before the engine is loaded."""

    checkpoint: Path  # as it was published
    engine_dir: Path  # converted
    load: Load
    few: Sequence[Load]  # whose latency is measured
    seconds: float


def bench(options: BenchOptions, say: Say) -> Report:
    """Measure, print with `say`, and write what is asked for.

    Raises:
        ASRError: the model cannot be loaded, the engine failed, or every clip did.
    """
    device = EngineConfig(**options.engine).torch_device()
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepare(options, Path(folder))
        report, timelines = _measure_engine(options, prepared, device, say)
        if options.plot_path:
            plot(timelines, options.plot_path)
        if options.json_path:
            report.write_json(options.json_path)  # now: the peer may take long, or the machine with it
        if options.peer:
            report.peer = _measure_peer(options.peer, options, prepared, report.passes[0].audio_s)
            for line in side_by_side(report, report.peer):
                say(line)
            if options.json_path:
                report.write_json(options.json_path)
    return report


def _prepare(options: BenchOptions, folder: Path) -> Prepared:
    started = time.perf_counter()
    if options.source is None:
        load = random_load(random_lengths(options.num_clips), options.form, folder / "clips")
        one = random_load([round(FEW_S * SAMPLE_RATE)], options.form, folder / "one")
    else:
        load = given_load(options.source)
        one = load
    if options.model is None:
        checkpoint = folder / "checkpoint"
        WRITERS[options.family](checkpoint)
    else:
        checkpoint = resolve_model(options.model, hub=options.hub)
    engine_dir = ensure_converted(checkpoint)
    if not _takes_language(engine_dir):
        load, one = replace(load, language=None), replace(one, language=None)
    seconds = time.perf_counter() - started
    return Prepared(
        checkpoint=checkpoint,
        engine_dir=engine_dir,
        load=load,
        few=[one.first(times) for times in options.latency],
        seconds=seconds,
    )


def _takes_language(engine_dir: Path) -> bool:
    """Whether the model's prompt can name the language of random clips."""
    try:
        family_named(EngineManifest.read(engine_dir).family).prompt_text(Request(language=LANGUAGE))
    except ConfigError:
        return False
    return True


def _measure_engine(
    options: BenchOptions, prepared: Prepared, device: torch.device, say: Say
) -> tuple[Report, dict[str, Timeline]]:
    """All passes of this engine, and the timeline of the last one of each kind."""
    timelines: dict[str, Timeline] = {}
    started = time.perf_counter()
    with AutoModelVLLM(prepared.engine_dir, **options.engine) as model:
        transcriber = model.transcriber
        report = _new_report(options, prepared, transcriber, device)
        report.load_s = time.perf_counter() - started
        for line in head(report):
            say(line)
        for timestamps in options.timestamps:
            for number in range(options.repeat):
                age_s = process_age_s()
                one, timeline = measure(
                    transcriber, prepared.load, timestamps=timestamps, is_warm=number > 0, device=device
                )
                if report.first_text_s is None:
                    report.first_text_s = age_s + one.first_result_s - prepared.seconds
                report.passes.append(one)
                say(row(one))
            timelines[f"{report.load}, {WITH_TIMES[timestamps]}: RTFx {one.rtfx:.0f}"] = timeline
            for few in prepared.few:
                report.latency.append(measure_latency(transcriber, few, timestamps=timestamps))
        report.memory = memory(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # a peer may want the memory
    for line in tail(report):
        say(line)
    return report, timelines


def _new_report(options: BenchOptions, prepared: Prepared, transcriber: Transcriber, device: torch.device) -> Report:
    decoder, config = transcriber.decoder, EngineConfig(**options.engine)
    chosen = {
        "device": str(device),
        "dtype": str(decoder.limits.dtype),
        "encoder_dtype": str(config.torch_dtype(config.encoder_dtype, device)),
        "decoder": type(decoder).__name__,
        "max_pending": decoder.max_pending,
    }
    return Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        load=prepared.load.name,
        scope=_scope(options),
        engine={**options.engine, **chosen},
        versions=versions(device),
        hardware=hardware(device),
        prepare_s=prepared.seconds,
        gpu_busy_unknown=gpu_busy_unknown(device),
    )


def _scope(options: BenchOptions) -> str:
    if options.source is not None:
        begin, outside = "the names of the inputs", "starting and loading"
    elif options.form == "memory":
        begin, outside = "waveforms in memory", "starting and loading"
    else:
        begin, outside = "the names of files that the system still has in memory", "starting, loading, and writing them"
    return (
        f"The clock runs from {begin} to transcripts; {outside} are outside. A pass profits from the one before it "
        f"by what that has warmed up, and by nothing of its clips."
    )


def _measure_peer(name: PeerName, options: BenchOptions, prepared: Prepared, audio_s: float) -> PeerReport:
    modes = options.timestamps
    jobs = [_peer_job(prepared.load, timestamps, options.repeat) for timestamps in modes]
    latencies = [(timestamps, few) for timestamps in modes for few in prepared.few]
    jobs += [_peer_job(few, timestamps, FEW_WARM_UPS + FEW_PASSES) for timestamps, few in latencies]
    language = None if prepared.load.num_tokens is None else LANGUAGE
    device = str(EngineConfig(**options.engine).torch_device())
    times = run_peer(name, PeerTask(checkpoint=str(prepared.checkpoint), device=device, language=language, jobs=jobs))
    return PeerReport(
        name=name,
        version=times.version,
        error=times.error,
        passes=[
            PeerPass(timestamps=timestamps, is_warm=number > 0, wall_s=wall_s, rtfx=audio_s / wall_s)
            for timestamps, passes in zip(modes, times.wall_s, strict=False)
            for number, wall_s in enumerate(passes)
        ],
        latency=[
            PeerLatency(
                timestamps=timestamps,
                num_clips=len(few.items),
                p50_s=percentile_s(warm, 50),
                p95_s=percentile_s(warm, 95),
            )
            for (timestamps, few), passes in zip(latencies, times.wall_s[len(modes) :], strict=False)
            if (warm := passes[FEW_WARM_UPS:])
        ],
    )


def _peer_job(load: Load, timestamps: bool, num_passes: int) -> PeerJob:
    clips = [item.source if isinstance(item.source, np.ndarray) else str(item.source) for item in load.items]
    return PeerJob(clips=clips, num_tokens=load.num_tokens, timestamps=timestamps, num_passes=num_passes)
