"""A transcript -> one picture: the waveform, the segments of speech in it, and the words. Needs matplotlib.

A character that no installed font has is shown as a box.
"""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConfigError
from .transcript import Transcript
from .waveform import SAMPLE_RATE, Waveform

ROW_S = 15.0  # of audio in one row of the picture
MAX_ROWS = 40  # a longer recording has longer rows
_COLUMNS = 2000  # points of the waveform's outline in a row
# With Chinese characters; the first that are installed are taken, and matplotlib's own.
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "SimHei", "PingFang SC")


def require_matplotlib(extra: str) -> None:
    """Raises ConfigError, naming the extra of this package that brings it, where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f'a picture needs matplotlib: pip install "twostage-asr[{extra}]"')


def plot_transcript(transcript: Transcript, waveform: Waveform, path: Path) -> None:
    """Write a PNG: a row for each ROW_S of audio, with the segments as spans, the words at their times."""
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    fonts = [name for name in _CJK_FONTS if name in get_font_names()] + ["DejaVu Sans"]
    duration = len(waveform) / SAMPLE_RATE
    row_s = max(ROW_S, duration / MAX_ROWS)
    num_rows = max(1, int(np.ceil(duration / row_s)))
    figure = Figure(figsize=(16, 1 + 1.6 * num_rows), layout="constrained")
    figure.suptitle(f"{transcript.key}: {duration:.2f} s", fontfamily=fonts)
    for row, axes in enumerate(figure.subplots(num_rows, squeeze=False).flat):
        start = row * row_s
        _draw_waveform(axes, waveform[int(start * SAMPLE_RATE) : int((start + row_s) * SAMPLE_RATE)], start)
        _draw_speech(axes, transcript, (start, start + row_s), fonts)
        axes.set_xlim(start, start + row_s)
        axes.set_ylim(-1.05, 1.6)
        axes.set_yticks([])
    axes.set_xlabel("seconds")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(path, format="png", dpi=100)


def _draw_waveform(axes: Any, samples: Waveform, start: float) -> None:
    """Its outline: lowest and highest sample of each column."""
    width = max(1, len(samples) // _COLUMNS)
    columns = samples[: len(samples) // width * width].reshape(-1, width)
    times = start + np.arange(len(columns)) * width / SAMPLE_RATE
    axes.fill_between(times, columns.min(axis=1), columns.max(axis=1), color="tab:blue", linewidth=0.3)


def _draw_speech(axes: Any, transcript: Transcript, shown: tuple[float, float], fonts: list[str]) -> None:
    start, end = shown
    for segment in transcript.segments:
        if segment.end > start and segment.start < end:
            axes.axvspan(max(segment.start, start), min(segment.end, end), color="tab:orange", alpha=0.2)
    words = [word for segment in transcript.segments for word in segment.words or ()]
    for number, word in enumerate(words):
        if start <= word.start < end:
            height = 1.1 + 0.22 * (number % 2)  # neighbours do not overlap
            axes.plot([word.start, word.end], [height - 0.04] * 2, color="tab:green")
            axes.text(word.start, height, word.text, fontsize=8, fontfamily=fonts, clip_on=True)
