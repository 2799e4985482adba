"""`twostage-asr bench` from its options to its report."""

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ...convert.export import ensure_converted
from ..audio.decode import SAMPLE_RATE
from ..auto import AutoModelVLLM
from ..cli.plot import require_matplotlib
from ..config import EngineConfig
from ..console import spare_loaded_objects
from ..errors import ConfigError, DecodeError
from ..families import family_named
from ..families.base import Request
from ..hub.resolve import HubName, resolve_model
from ..manifest import EngineManifest
from ..timeline import Timeline
from ..transcriber import Transcriber
from .figures import percentile_s
from .load import FEW_S, LANGUAGE, Form, Load, given_load, random_lengths, random_load
from .machine import gpu_busy_unknown, hardware, memory, process_age_s, versions
from .measure import FEW_PASSES, FEW_WARM_UPS, measure, measure_latency, transcribe
from .peer import PeerJob, PeerName, PeerTask, run_peer
from .plot import plot
from .random_checkpoint import write_checkpoint
from .random_tower_families import QWEN3_ASR_1_7B, write_glm_asr, write_qwen3_asr
from .report import Kind, PeerLatency, PeerPass, PeerReport, Report, head, row, side_by_side, tail

Say = Callable[[str], None]
RandomFamily = Literal["fun_asr_nano", "qwen3_asr", "qwen3_asr_1_7b", "glm_asr"]
WRITERS: dict[RandomFamily, Callable[[Path], None]] = {
    "fun_asr_nano": write_checkpoint,
    "qwen3_asr": write_qwen3_asr,
    "qwen3_asr_1_7b": partial(write_qwen3_asr, sizes=QWEN3_ASR_1_7B),
    "glm_asr": write_glm_asr,
}
SCOPE = (
    "The clock runs from waveforms in memory, or the names of files, to transcripts; starting, loading, and writing "
    "random clips to files, which the system therefore still holds in memory, are outside. A pass profits from the one "
    "before it by what that has warmed up, and by nothing of its clips."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The options of the command."""

    model: str | None = None  # directory or hub id; None: random weights of a published size
    family: RandomFamily = "fun_asr_nano"  # of random weights
    hub: HubName = "ms"
    source: Path | None = None  # audio instead of random clips
    clips: Sequence[int] = (512,)  # numbers of random clips: one load for each number and form
    forms: Sequence[Form] = ("memory",)
    timestamps: Sequence[bool] = (False, True)
    repeat: int = 3  # passes over each load
    latency: Sequence[int] = ()  # numbers of clips at once for which the latency is measured
    peer: PeerName | None = None
    json_path: Path | None = None
    plot_path: Path | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)  # arguments of AutoModelVLLM

    def __post_init__(self) -> None:
        """Refuse options that would fail only after minutes of work."""
        for name, numbers in (("repeat", [self.repeat]), ("latency", self.latency), ("clips", self.clips)):
            if min(numbers, default=1) < 1:
                raise ConfigError(f"{name} must be at least 1, got {min(numbers)}")
        for name, given in (("clips", self.clips), ("files", self.forms)):
            if len(set(given)) < len(given):
                raise ConfigError(f"{name}: each can be given once, got {', '.join(map(str, given))}")
        if self.source is not None and set(self.forms) != {"memory"}:
            raise ConfigError("files of random clips and an input of one's own exclude each other")
        for path in (self.json_path, self.plot_path):
            if path is not None and not path.absolute().parent.is_dir():
                raise ConfigError(f"{path}: there is no such directory")
        if self.plot_path is not None:
            require_matplotlib("bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is prepared before the engine is loaded."""

    checkpoint: Path  # in the published layout
    engine_dir: Path  # converted
    loads: Sequence[Load]
    few: Sequence[Load]  # loads of a few clips, whose latency is measured
    seconds: float  # that the preparation took


def bench(options: BenchOptions, say: Say) -> Report:
    """Measure, print lines with `say`, and write the files that the options name.

    Raises:
        ASRError: the model cannot be loaded, the engine failed, or all clips failed.
    """
    device = EngineConfig(**options.engine).torch_device()
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepare(options, Path(folder))
        report, timelines = _measure_engine(options, prepared, device, say)
        if options.plot_path:
            plot(timelines, options.plot_path)
        if options.json_path:
            report.write_json(options.json_path)  # before the peer, which may take long or crash the machine
        if options.peer:
            report.peer = _measure_peer(options.peer, options, prepared, report)
            for line in side_by_side(report, report.peer):
                say(line)
            if options.json_path:
                report.write_json(options.json_path)
    return report


def _prepare(options: BenchOptions, folder: Path) -> Prepared:
    started = time.perf_counter()
    if options.source is None:
        lengths, few_lengths = random_lengths(max(options.clips)), [round(FEW_S * SAMPLE_RATE)]
        whole = [random_load(lengths, form, folder / form) for form in options.forms]
        loads = [load.head(num_clips) for load in whole for num_clips in options.clips]
        ones = [random_load(few_lengths, form, folder / f"one_{form}") for form in options.forms]
    else:
        loads = ones = [given_load(options.source)]
    if options.model is None:
        checkpoint = folder / "checkpoint"
        WRITERS[options.family](checkpoint)
    else:
        checkpoint = resolve_model(options.model, hub=options.hub)
    engine_dir = ensure_converted(checkpoint)
    if not _takes_language(engine_dir):
        loads, ones = ([replace(load, language=None) for load in those] for those in (loads, ones))
    seconds = time.perf_counter() - started
    return Prepared(
        checkpoint=checkpoint,
        engine_dir=engine_dir,
        loads=loads,
        few=[one.first(times) for one in ones for times in options.latency],
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
    """Run all passes of this engine; returns the report, and the timeline of the last pass of each kind."""
    timelines: dict[str, Timeline] = {}
    started = time.perf_counter()
    with AutoModelVLLM(prepared.engine_dir, **options.engine) as model:
        spare_loaded_objects()
        transcriber = model.transcriber
        load_s = time.perf_counter() - started
        first_text_s = _first_text_s(transcriber, prepared, timestamps=options.timestamps[0])
        transcriber.wait_until_complete()  # the passes are measured with all of the engine
        report = _new_report(options, prepared, transcriber, device)
        report.load_s, report.first_text_s = load_s, first_text_s
        for line in head(report):
            say(line)
        for load, timestamps in itertools.product(prepared.loads, options.timestamps):
            for number in range(options.repeat):
                one, timeline = measure(transcriber, load, timestamps=timestamps, is_warm=number > 0, device=device)
                report.passes.append(one)
                say(row(one))
            timelines[f"{Kind.of(one)}: RTFx {one.rtfx:.0f}"] = timeline
        for few, timestamps in itertools.product(prepared.few, options.timestamps):
            report.latency.append(measure_latency(transcriber, few, timestamps=timestamps))
        report.memory = memory(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # so that the peer can have the memory
    for line in tail(report):
        say(line)
    return report, timelines


def _first_text_s(transcriber: Transcriber, prepared: Prepared, *, timestamps: bool) -> float | None:
    """The age of the process at the first clip's text, without the preparation; None if that clip has no text."""
    try:
        transcribe(transcriber, prepared.loads[0].head(1), timestamps=timestamps)
    except DecodeError:
        return None
    return process_age_s() - prepared.seconds


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
        load="random clips of 1.5 to 30 s" if options.source is None else f"clips of {options.source.name}",
        scope=SCOPE,
        engine={**options.engine, **chosen},
        versions=versions(device),
        hardware=hardware(device),
        prepare_s=prepared.seconds,
        gpu_busy_unknown=gpu_busy_unknown(device),
    )


def _measure_peer(name: PeerName, options: BenchOptions, prepared: Prepared, report: Report) -> PeerReport:
    """Run the peer on the loads with the fewest clips, because larger ones take it long and show the same."""
    fewest = min(len(load.items) for load in prepared.loads)
    smallest = [load for load in prepared.loads if len(load.items) == fewest]
    loads = list(itertools.product(smallest, options.timestamps))
    few = list(itertools.product(prepared.few, options.timestamps))
    jobs = [_peer_job(load, timestamps, options.repeat) for load, timestamps in loads]
    jobs += [_peer_job(load, timestamps, FEW_WARM_UPS + FEW_PASSES) for load, timestamps in few]
    language = None if smallest[0].num_tokens is None else LANGUAGE
    device = str(EngineConfig(**options.engine).torch_device())
    times = run_peer(name, PeerTask(checkpoint=str(prepared.checkpoint), device=device, language=language, jobs=jobs))
    audio_s = {(one.form, one.num_clips): one.audio_s for one in report.passes}
    return PeerReport(
        name=name,
        version=times.version,
        error=times.error,
        passes=[
            PeerPass(
                form=load.form,
                num_clips=fewest,
                timestamps=timestamps,
                is_warm=number > 0,
                wall_s=wall_s,
                rtfx=audio_s[load.form, fewest] / wall_s,
            )
            for (load, timestamps), passes in zip(loads, times.wall_s, strict=False)
            for number, wall_s in enumerate(passes)
        ],
        latency=[
            PeerLatency(
                form=load.form,
                num_clips=len(load.items),
                timestamps=timestamps,
                p50_s=percentile_s(warm, 50),
                p95_s=percentile_s(warm, 95),
            )
            for (load, timestamps), passes in zip(few, times.wall_s[len(loads) :], strict=True)
            if (warm := passes[FEW_WARM_UPS:])
        ],
    )


def _peer_job(load: Load, timestamps: bool, num_passes: int) -> PeerJob:
    clips = [item.source if isinstance(item.source, np.ndarray) else str(item.source) for item in load.items]
    return PeerJob(clips=clips, num_tokens=load.num_tokens, timestamps=timestamps, num_passes=num_passes)
