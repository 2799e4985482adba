"""Plot timelines: when each stage was at work, and how many clips were in stage 2. Needs matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..timeline import Timeline
from .figures import concurrency

STAGES = {"read": "tab:gray", "encode": "tab:blue", "align": "tab:green"}  # the stages whose spans do not overlap
DECODE_COLOR = "tab:orange"


def plot(timelines: Mapping[str, Timeline], path: Path) -> None:
    """Write a PNG with one panel per timeline, under its title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4 * len(timelines)), layout="constrained")
    for panel, (title, timeline) in zip(
        figure.subfigures(len(timelines), squeeze=False).flat, timelines.items(), strict=True
    ):
        stages, decode = panel.subplots(2, sharex=True, height_ratios=(1, 2))
        panel.suptitle(title)
        began = min(span.start for span in timeline.spans)
        _draw_stages(stages, timeline, began)
        _draw_concurrency(decode, timeline, began)
    figure.savefig(path, format="png", dpi=120)


def _draw_stages(axes: Any, timeline: Timeline, began: float) -> None:
    for row, (stage, color) in enumerate(STAGES.items()):
        bars = [(span.start - began, span.end - span.start) for span in timeline.spans if span.stage == stage]
        axes.broken_barh(bars, (row - 0.4, 0.8), color=color)
    axes.set_yticks(range(len(STAGES)), STAGES)
    axes.invert_yaxis()


def _draw_concurrency(axes: Any, timeline: Timeline, began: float) -> None:
    steps = concurrency(span for span in timeline.spans if span.stage == "decode")
    times, counts = [time - began for time, _ in steps], [count for _, count in steps]
    axes.fill_between(times, counts, step="post", color=DECODE_COLOR)
    axes.set_ylabel("clips in stage 2")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
