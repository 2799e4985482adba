"""Run passes over a load and measure them.

The clock of a pass starts before the first clip is requested and stops after the last transcript.
"""

import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch

from ..decoder.base import POLL_S, Decoder, DecodingCounts, Hypothesis, Prompt
from ..errors import DecodeError
from ..timeline import Span, Stage, Timeline
from ..transcriber import Transcriber
from .figures import busy_s, most_at_once, percentile_s
from .load import Load
from .machine import GPUMeter, peak_rss_bytes, rss_bytes

FEW_WARM_UPS, FEW_PASSES = 3, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The figures of one pass over all clips of a load."""

    form: str  # see Load
    num_clips: int
    timestamps: bool
    is_warm: bool  # False for the first pass of this process with this load and these options
    failed: dict[str, str]  # key -> error
    audio_s: float  # of the clips that did not fail
    wall_s: float
    rtfx: float  # audio_s / wall_s
    num_tokens: int  # without end-of-sentence tokens
    tokens_per_s: float  # num_tokens / wall_s
    stage_s: dict[Stage, float]  # time in which the stage worked or was waited for; see Timeline
    most_in_stage_2: int  # largest number of clips in stage 2 at once
    first_result_s: float
    latency_p50_s: float | None  # from a clip's submission to stage 2 to its answer
    latency_p95_s: float | None
    gpu_busy_share: float | None
    rss_bytes: int  # of this process, at the end of this pass
    peak_rss_bytes: int  # of this process, from its start to the end of this pass
    others_rss_bytes: int  # of the processes that decode, read audio or find word times; see rss_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The time from the audio to the last transcript for a few clips at once, on a warm and otherwise idle engine."""

    form: str
    num_clips: int
    timestamps: bool
    audio_s: float  # of all clips
    num_passes: int
    mean_s: float
    p50_s: float | None
    p90_s: float | None
    p95_s: float | None
    p99_s: float | None
    rtfx: float  # audio_s / mean_s
    encode_p50_s: float | None  # the part of stage 1


class WrappedDecoder(Decoder):
    """A decoder that leaves all work to another one; what measures it overrides the step that it watches."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.limits = decoder.limits

    def wait_until_ready(self) -> None:
        self._decoder.wait_until_ready()

    @property
    def max_pending(self) -> int:
        return self._decoder.max_pending

    @property
    def num_pending(self) -> int:
        return self._decoder.num_pending

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        self._decoder.add(prompt_id, prompt)

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        return self._decoder.poll(wait_s=wait_s, wake=wake)

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        return self._decoder.partial_tokens(prompt_id)

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        self._decoder.cancel(prompt_ids)

    def close(self) -> None:
        self._decoder.close()


def counts_of(decoder: Decoder) -> DecodingCounts:
    """What has been decoded with drafts; nothing where there are none."""
    counts = getattr(decoder, "counts", None)
    return counts if isinstance(counts, DecodingCounts) else DecodingCounts()


class TokenCounter(WrappedDecoder):
    """Counts the tokens that a decoder decodes."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.num_tokens = 0

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        done = super().poll(wait_s=wait_s, wake=wake)
        self.num_tokens += sum(len(hypothesis.token_ids) for _, hypothesis in done)
        return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of one pass, without the transcripts, whose memory is not the engine's."""

    failed: dict[str, str]  # key -> error
    audio_s: float  # of the clips that did not fail
    timeline: Timeline
    num_tokens: int
    first_result_s: float
    wall_s: float


def transcribe(transcriber: Transcriber, load: Load, *, timestamps: bool) -> Outcome:
    """Run one pass over a load. Raises DecodeError if the engine fails or all clips fail."""
    counter, timeline = TokenCounter(transcriber.decoder), Timeline()
    failed: dict[str, str] = {}
    num_done, audio_s, first_result_s = 0, 0.0, 0.0
    started = time.perf_counter()
    for _, transcript in replace(transcriber, decoder=counter).run(
        load.items, load.options(timestamps=timestamps), timeline
    ):
        first_result_s = first_result_s or time.perf_counter() - started
        if transcript.status == "ok":
            num_done += 1
            audio_s += transcript.duration
        else:
            failed[transcript.key] = transcript.error or ""
    wall_s = time.perf_counter() - started
    if not num_done:
        raise DecodeError(f"all {len(load.items)} clips failed, the first with: {next(iter(failed.values()))}")
    return Outcome(
        failed=failed,
        audio_s=audio_s,
        timeline=timeline,
        num_tokens=counter.num_tokens,
        first_result_s=first_result_s,
        wall_s=wall_s,
    )


def measure(
    transcriber: Transcriber, load: Load, *, timestamps: bool, is_warm: bool, device: torch.device
) -> tuple[Pass, Timeline]:
    """Run one pass over a load and compute its figures, the GPU's busy share and memory included."""
    with GPUMeter(device) as meter:
        outcome = transcribe(transcriber, load, timestamps=timestamps)
    spans, wall_s = outcome.timeline.spans, outcome.wall_s
    decoding = [span for span in spans if span.stage == "decode"]
    latencies_s = [span.end - span.start for span in decoding]
    own_rss, others_rss = rss_bytes()
    figures = Pass(
        form=load.form,
        num_clips=len(load.items),
        timestamps=timestamps,
        is_warm=is_warm,
        failed=outcome.failed,
        audio_s=outcome.audio_s,
        wall_s=wall_s,
        rtfx=outcome.audio_s / wall_s,
        num_tokens=outcome.num_tokens,
        tokens_per_s=outcome.num_tokens / wall_s,
        stage_s=stage_seconds(spans),
        most_in_stage_2=most_at_once(decoding),
        first_result_s=outcome.first_result_s,
        latency_p50_s=percentile_s(latencies_s, 50),
        latency_p95_s=percentile_s(latencies_s, 95),
        gpu_busy_share=meter.busy_share,
        rss_bytes=own_rss,
        peak_rss_bytes=peak_rss_bytes(),
        others_rss_bytes=others_rss,
    )
    return figures, outcome.timeline


def measure_latency(transcriber: Transcriber, load: Load, *, timestamps: bool) -> Latency:
    """Run FEW_WARM_UPS passes over a load of a few clips, and then measure FEW_PASSES passes."""
    outcomes = [transcribe(transcriber, load, timestamps=timestamps) for _ in range(FEW_WARM_UPS + FEW_PASSES)]
    warm = outcomes[FEW_WARM_UPS:]
    seconds = [outcome.wall_s for outcome in warm]
    mean_s, audio_s = statistics.fmean(seconds), warm[0].audio_s
    encode_s = [stage_seconds(outcome.timeline.spans)["encode"] for outcome in warm]
    return Latency(
        form=load.form,
        num_clips=len(load.items),
        timestamps=timestamps,
        audio_s=audio_s,
        num_passes=len(warm),
        mean_s=mean_s,
        p50_s=percentile_s(seconds, 50),
        p90_s=percentile_s(seconds, 90),
        p95_s=percentile_s(seconds, 95),
        p99_s=percentile_s(seconds, 99),
        rtfx=audio_s / mean_s,
        encode_p50_s=percentile_s(encode_s, 50),
    )


def stage_seconds(spans: Sequence[Span]) -> dict[Stage, float]:
    """How long each stage was at work, in seconds. Overlapping spans of "decode" count once."""
    return {stage: busy_s(span for span in spans if span.stage == stage) for stage in get_args(Stage)}
