"""Cuts long recordings at pauses, in the process that decodes them.

    blocks of samples  ->  Pieces, each with the segments that end in one stretch of the recording

Only the open segment and a stretch of Cutting.piece_s are in memory. This module does not import torch itself, because
audio worker processes do without it.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..audio.notes import Notes
from ..audio.waveform import SAMPLE_RATE, Waveform
from ..transcript import TranscriptWarning
from . import RECORDING_SCHEDULE, Schedule, SegmentRules, SpeechSegmenter, SpeechSpan, VoiceActivityStream, load_vad

_BLOCK_SAMPLES = 1 << 20  # samples that the VAD processes at a time: about a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """Which recordings are cut, and how."""

    vad: str  # the name for load_vad
    rules: SegmentRules
    whole_s: float  # recordings up to this length stay whole, and no VAD runs on them
    piece_s: float = 60.0  # the stretch of a recording that is read before another recording's turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """Which recordings are cut, and how: the options that users set."""

    vad: str | None = (
        "auto"  # "auto": silero, on long recordings only; "silero" or a directory: on all; None: cut nothing
    )
    max_segment_s: float | None = None  # None: the longest audio that the model transcribes well in one pass
    silence_schedule: Schedule = RECORDING_SCHEDULE

    def __post_init__(self) -> None:
        """Raises ConfigError or CheckpointError for invalid options."""
        self.cutting(60.0)
        if self.vad is not None and self.vad != "auto":
            load_vad(self.vad)

    def cutting(self, best_length_s: float) -> Cutting | None:
        """The rules for a model that transcribes up to `best_length_s` well in one pass; None to cut nothing."""
        longest_s = best_length_s if self.max_segment_s is None else self.max_segment_s
        rules = SegmentRules(max_segment_s=longest_s, silence_schedule=self.silence_schedule)
        match self.vad:
            case None:
                return None
            case "auto":
                return Cutting(vad="silero", rules=rules, whole_s=longest_s)
            case name:
                return Cutting(vad=name, rules=rules, whole_s=0.0)


DEFAULT_SEGMENTATION = Segmentation()


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """One segment of a recording."""

    start: float  # s
    waveform: Waveform
    channel: int | None = None  # None unless the recording's channels are split


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One stretch of a recording: the segments that end in it."""

    cuts: list[Cut]
    duration: float  # s, from the start of the recording to the end of this stretch
    is_last: bool
    is_whole: bool = False  # no VAD ran: each cut is the whole recording, or a whole channel of it
    warnings: tuple[TranscriptWarning, ...] = ()  # in the last piece: what was changed while the recording was read

    @classmethod
    def whole(cls, waveform: Waveform, warnings: tuple[TranscriptWarning, ...] = ()) -> Self:
        """The only piece of a recording that stays whole: (N,), or (N, channels) if its channels are split."""
        channels: list[int | None] = [None] if waveform.ndim == 1 else [*range(waveform.shape[1])]
        columns = [waveform] if waveform.ndim == 1 else [np.ascontiguousarray(column) for column in waveform.T]
        cuts = [Cut(0.0, column, channel) for channel, column in zip(channels, columns, strict=True)]
        return cls(cuts, len(waveform) / SAMPLE_RATE, is_last=True, is_whole=True, warnings=warnings)


class WaveformCutter:
    """Cuts one stream of samples into its segments, each as soon as its end is known."""

    def __init__(self, stream: VoiceActivityStream, rules: SegmentRules, channel: int | None = None) -> None:
        self._segmenter = SpeechSegmenter(stream, rules)
        self._channel = channel
        self._kept: Waveform = np.zeros(0, np.float32)  # samples that a segment may still need
        self._kept_from = 0  # index in the stream of the first of them

    def push(self, samples: Waveform) -> list[Cut]:
        """(N,) float32 at 16 kHz -> the segments that close within these samples."""
        self._kept = np.concatenate([self._kept, samples])
        cuts = self._cuts(self._segmenter.push(samples))
        settled = round(self._segmenter.settled_s * SAMPLE_RATE)
        self._kept = self._kept[settled - self._kept_from :]
        self._kept_from = settled
        return cuts

    def finish(self) -> list[Cut]:
        """Close the open segment, if any, at the end of the stream."""
        return self._cuts(self._segmenter.finish())

    def _cuts(self, spans: Sequence[SpeechSpan]) -> list[Cut]:
        places = [(round(s.start * SAMPLE_RATE), round(s.end * SAMPLE_RATE)) for s in spans]
        # A view would keep the whole block in memory.
        return [
            Cut(start / SAMPLE_RATE, self._kept[start - self._kept_from : end - self._kept_from].copy(), self._channel)
            for start, end in places
        ]


def cut_audio(blocks: Iterator[Waveform], cutting: Cutting | None, notes: Notes) -> Iterator[Piece]:
    """A recording, block by block -> one Piece if it stays whole, otherwise several.

    Args:
        blocks: (N,) each, or (N, channels) if the channels are split.
        cutting: None leaves everything whole. Split channels are always cut, however short they are, so that the
            segments of different channels can be ordered by time.
        notes: the records of the reader of `blocks`; they become the last piece's warnings.
    """
    first: list[Waveform] = []
    for block in blocks:
        first.append(block)
        if cutting is not None and (block.ndim == 2 or sum(map(len, first)) > cutting.whole_s * SAMPLE_RATE):
            yield from _pieces(itertools.chain(first, blocks), cutting, notes)
            return
    yield Piece.whole(first[0] if len(first) == 1 else np.concatenate(first), notes.warnings())


def _pieces(blocks: Iterable[Waveform], cutting: Cutting, notes: Notes) -> Iterator[Piece]:
    cutters: list[WaveformCutter] = []
    cuts: list[Cut] = []
    num_samples, piece_start = 0, 0
    for block in _short(blocks):
        channels = [block] if block.ndim == 1 else [np.ascontiguousarray(column) for column in block.T]
        if not cutters:
            cutters = _cutters(cutting, None if block.ndim == 1 else len(channels))
        cuts += itertools.chain(*(cutter.push(each) for cutter, each in zip(cutters, channels, strict=True)))
        num_samples += len(block)
        if num_samples - piece_start >= cutting.piece_s * SAMPLE_RATE:
            yield Piece(cuts, num_samples / SAMPLE_RATE, is_last=False)
            cuts, piece_start = [], num_samples
    cuts += itertools.chain(*(cutter.finish() for cutter in cutters))
    yield Piece(cuts, num_samples / SAMPLE_RATE, is_last=True, warnings=notes.warnings())


def _short(blocks: Iterable[Waveform]) -> Iterator[Waveform]:
    """Yield the same samples in blocks of at most _BLOCK_SAMPLES per channel."""
    for block in blocks:
        yield from (block[start : start + _BLOCK_SAMPLES] for start in range(0, len(block), _BLOCK_SAMPLES))


def _cutters(cutting: Cutting, num_channels: int | None) -> list[WaveformCutter]:
    """One cutter for each channel of a split recording, or one for a mono recording (`num_channels` None)."""
    vad = load_vad(cutting.vad)
    channels = [None] if num_channels is None else range(num_channels)
    return [WaveformCutter(vad.new_stream(), cutting.rules, channel) for channel in channels]
