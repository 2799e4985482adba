"""Plot a transcript: the waveform, the speech that a VAD finds, the segments and the words. Needs matplotlib.

A character that no installed font has is shown as a box, which a warning in the log tells once.
"""

import functools
import importlib.util
import logging
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ConfigError
from ..transcript import Transcript
from ..vad import SegmentRules, SpeechSegmenter, SpeechSpan, VoiceActivityModel
from ..writers import replacing

ROW_S = 15.0  # audio in one row
MAX_ROWS = 40  # a longer recording gets longer rows
PAUSE_MS = 200.0  # shortest silence that is shown as a gap in the VAD's speech
_COLUMNS = 2000  # points of the waveform's outline in one row
# Fonts with Chinese characters; those that are installed are used, and then matplotlib's own.
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # kana, Chinese characters, Hangul
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "SimHei", "PingFang SC")

logger = logging.getLogger(__name__)


def require_matplotlib(extra: str) -> None:
    """Raises ConfigError if matplotlib is missing; the message names the `extra` of this package that installs it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f'a picture needs matplotlib: pip install ".[{extra}]"')


def plot_transcript(transcript: Transcript, waveform: Waveform, path: Path, *, vad: VoiceActivityModel) -> None:
    """Write a PNG with a row for each ROW_S of audio: segments shaded, words above, the VAD's speech below."""
    from matplotlib.figure import Figure

    fonts = [*_installed_cjk_fonts(), "DejaVu Sans"]
    if len(fonts) == 1 and _CJK.search(transcript.text):
        _warn_of_boxes()
    duration = len(waveform) / SAMPLE_RATE
    row_s = max(ROW_S, duration / MAX_ROWS)
    speech = _speech(waveform, vad)
    num_rows = max(1, math.ceil(duration / row_s))
    row_s = min(row_s, max(duration, 1.0))  # a short clip fills its row
    figure = Figure(figsize=(16, 1 + 1.6 * num_rows), layout="constrained")
    key = transcript.key.encode(errors="backslashreplace").decode()  # of a file whose name is no Unicode
    figure.suptitle(f"{key}: {duration:.2f} s", fontfamily=fonts, parse_math=False)
    for row, axes in enumerate(figure.subplots(num_rows, squeeze=False).flat):
        start = row * row_s
        _draw_waveform(axes, waveform[int(start * SAMPLE_RATE) : int((start + row_s) * SAMPLE_RATE)], start)
        _draw_transcript(axes, transcript, (start, start + row_s), fonts)
        spans = [(span.start, span.end - span.start) for span in speech]
        axes.broken_barh(spans, (-1.25, 0.15), color="tab:gray", label="speech found by the VAD")
        axes.set_xlim(start, start + row_s)
        axes.set_ylim(-1.3, 1.6)
        axes.set_yticks([])
    axes.set_xlabel("seconds")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))  # one for each label
    figure.legend(shown.values(), shown.keys(), loc="outside upper right", ncols=4, fontsize=8)
    with warnings.catch_warnings(), replacing(path) as file:
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(file, format="png", dpi=100)


@functools.cache
def _installed_cjk_fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import get_font_names

    return tuple(name for name in _CJK_FONTS if name in get_font_names())


@functools.cache  # once
def _warn_of_boxes() -> None:
    logger.warning("no installed font has Chinese characters, so pictures show boxes: install fonts-noto-cjk")


def _speech(waveform: Waveform, vad: VoiceActivityModel) -> list[SpeechSpan]:
    """The VAD's speech, with the short pauses that segments would bridge."""
    segmenter = SpeechSegmenter(vad.new_stream(), SegmentRules(padding_s=0.0, silence_schedule=((math.inf, PAUSE_MS),)))
    return segmenter.push(waveform) + segmenter.finish()


def _draw_waveform(axes: Any, samples: Waveform, start: float) -> None:
    """Draw the outline of the waveform: the lowest and highest sample of each column."""
    width = max(1, len(samples) // _COLUMNS)
    columns = samples[: len(samples) // width * width].reshape(-1, width)
    times = start + np.arange(len(columns)) * width / SAMPLE_RATE
    axes.fill_between(
        times, columns.min(axis=1), columns.max(axis=1), color="tab:blue", linewidth=0.3, label="waveform"
    )


def _draw_transcript(axes: Any, transcript: Transcript, shown: tuple[float, float], fonts: list[str]) -> None:
    start, end = shown
    for segment in transcript.segments:
        if segment.end > start and segment.start < end:
            axes.axvspan(
                max(segment.start, start), min(segment.end, end), color="tab:orange", alpha=0.2, label="segment"
            )
    words = [word for segment in transcript.segments for word in segment.words or ()]
    for number, word in enumerate(words):
        if start <= word.start < end:
            height = 1.1 + 0.22 * (number % 2)  # neighbours do not overlap
            axes.plot([word.start, word.end], [height - 0.04] * 2, color="tab:green", label="word")
            axes.text(word.start, height, word.text, fontsize=8, fontfamily=fonts, clip_on=True, parse_math=False)
