"""Long recordings are cut where nobody speaks.

    blocks of samples  ->  Pieces: the segments that end in a stretch of the recording    (where audio is decoded)

Nothing here holds more of a recording than its open segment and a stretch of Cutting.piece_s, or imports torch.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..audio.notes import Notes
from ..audio.waveform import SAMPLE_RATE, Waveform
from ..transcript import TranscriptWarning
from . import OFFLINE_SCHEDULE, Schedule, SegmentRules, SpeechSegmenter, SpeechSpan, VoiceActivityStream, load_vad

_BLOCK_SAMPLES = 1 << 20  # that are searched for speech at a time: a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """Which recordings are cut, and how."""

    vad: str  # for load_vad
    rules: SegmentRules
    whole_s: float  # recordings up to this long stay whole, and are not searched for speech
    piece_s: float = 60.0  # of a recording, that are read before others have their turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """Which recordings are cut, and how, as users say it."""

    vad: str | None = (
        "auto"  # "auto": silero, for what is too long; "silero" or a directory: for all; None: cut nothing
    )
    max_segment_s: float | None = None  # None: what the model hears well in one pass
    silence_schedule: Schedule = OFFLINE_SCHEDULE

    def __post_init__(self) -> None:
        """Raises ConfigError or CheckpointError for what cannot work."""
        self.cutting(60.0)
        if self.vad is not None and self.vad != "auto":
            load_vad(self.vad)

    def cutting(self, best_length_s: float) -> Cutting | None:
        """For a model that hears audio of this length well; None if nothing shall be cut."""
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
    channel: int | None = None  # where the channels of a recording are split


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What a stretch of a recording holds: the segments that end in it."""

    cuts: list[Cut]
    duration: float  # s, of the recording up to here
    is_last: bool
    is_whole: bool = False  # the recording was not searched for speech: each cut is all of it, or of one channel
    warnings: tuple[TranscriptWarning, ...] = ()  # of the last piece: what happened while the recording was read

    @classmethod
    def whole(cls, waveform: Waveform, warnings: tuple[TranscriptWarning, ...] = ()) -> Self:
        """A recording that stays whole: (N,), or (N, channels) where they are split."""
        channels: list[int | None] = [None] if waveform.ndim == 1 else [*range(waveform.shape[1])]
        columns = [waveform] if waveform.ndim == 1 else [np.ascontiguousarray(column) for column in waveform.T]
        cuts = [Cut(0.0, column, channel) for channel, column in zip(channels, columns, strict=True)]
        return cls(cuts, len(waveform) / SAMPLE_RATE, is_last=True, is_whole=True, warnings=warnings)


class WaveformCutter:
    """Cuts one stream of samples into its segments, each as soon as its end is known."""

    def __init__(self, stream: VoiceActivityStream, rules: SegmentRules, channel: int | None = None) -> None:
        self._segmenter = SpeechSegmenter(stream, rules)
        self._channel = channel
        self._kept: Waveform = np.zeros(0, np.float32)  # what a segment may still need
        self._kept_from = 0  # its place in the stream, samples

    def push(self, samples: Waveform) -> list[Cut]:
        """(N,) float32 at 16 kHz -> the segments that these samples end."""
        self._kept = np.concatenate([self._kept, samples])
        cuts = self._cuts(self._segmenter.push(samples))
        settled = round(self._segmenter.settled_s * SAMPLE_RATE)
        self._kept = self._kept[settled - self._kept_from :]
        self._kept_from = settled
        return cuts

    def finish(self) -> list[Cut]:
        """The segment that the end of the stream ends, if one is open."""
        return self._cuts(self._segmenter.finish())

    def _cuts(self, spans: Sequence[SpeechSpan]) -> list[Cut]:
        places = [(round(s.start * SAMPLE_RATE), round(s.end * SAMPLE_RATE)) for s in spans]
        # A view would keep all of its block in memory.
        return [
            Cut(start / SAMPLE_RATE, self._kept[start - self._kept_from : end - self._kept_from].copy(), self._channel)
            for start, end in places
        ]


def cut_audio(blocks: Iterator[Waveform], cutting: Cutting | None, notes: Notes) -> Iterator[Piece]:
    """A recording, block by block -> one Piece if it stays whole, else its Pieces.

    Args:
        blocks: (N,) each, or (N, channels) where the channels are split.
        cutting: None leaves everything whole. Channels that are split are cut however short they are, so that what is
            said on one of them can stand between what is said on another.
        notes: what is noted while the blocks are read.
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
    """The same samples, at most _BLOCK_SAMPLES of a channel at a time."""
    for block in blocks:
        yield from (block[start : start + _BLOCK_SAMPLES] for start in range(0, len(block), _BLOCK_SAMPLES))


def _cutters(cutting: Cutting, num_channels: int | None) -> list[WaveformCutter]:
    """One for each channel, or for all of them together."""
    vad = load_vad(cutting.vad)
    channels = [None] if num_channels is None else range(num_channels)
    return [WaveformCutter(vad.new_stream(), cutting.rules, channel) for channel in channels]
