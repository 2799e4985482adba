"""Windows of a recording's speech -> turns of its speakers."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..transcript import SpeakerTurn
from .clustering import GroupsOf, Labels, SpeakerCount, block_groups, centres_of, cluster, in_order
from .model import WINDOW_SAMPLES, Bounds, Embeddings, SpeakerModel, embed_windows

SHIFT_SAMPLES = WINDOW_SAMPLES // 2
CHANGE_COST = 0.03  # of cosine similarity: a speaker who seems to be heard for a moment must be this much more alike
_OVERLAP_SIMILARITY, _OVERLAP_MARGIN = 0.4, 0.08  # to the second speaker, and to the first less the second
Spans = npt.NDArray[np.float64]  # (N, 2): start and end in seconds
Similarities = npt.NDArray[np.float32]  # (windows, speakers)


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Speech without a long pause: its windows and their embeddings."""

    start: float  # s, in the recording
    end: float
    windows: Spans  # from the start of the recording
    embeddings: Embeddings
    channel: int | None = None
    error: str | None = None  # why it could not be embedded; it has no windows then

    @property
    def weights(self) -> list[float]:
        """The seconds of speech that each window stands for, since windows share most of theirs with others."""
        return [(self.end - self.start) / len(self.windows)] * len(self.windows)


@dataclass(frozen=True, slots=True, eq=False)
class Diarized:
    """Who speaks when."""

    turns: tuple[SpeakerTurn, ...]  # in order of time
    voices: Mapping[str, Embeddings]  # of each speaker: (D,), of length 1


def windows_of(num_samples: int) -> list[Bounds]:
    """First and last samples of windows, each half a window after the last; the last one ends where the samples end."""
    last = num_samples - WINDOW_SAMPLES
    if last <= 0:
        return [(0, num_samples)]
    return [(start, start + WINDOW_SAMPLES) for start in (*range(0, last, SHIFT_SAMPLES), last)]


def embedded(model: SpeakerModel, waveforms: Sequence[Waveform]) -> list[Embeddings]:
    """The embeddings of each waveform's windows_of(), all in one call of the model."""
    return embed_windows(model, [(waveform, windows_of(len(waveform))) for waveform in waveforms])


def stretch_of(start: float, num_samples: int, embeddings: Embeddings, channel: int | None = None) -> Stretch:
    """The stretch of samples whose windows have these embeddings."""
    windows = start + np.asarray(windows_of(num_samples), np.float64) / SAMPLE_RATE
    return Stretch(start, start + num_samples / SAMPLE_RATE, windows, embeddings, channel)


def diarize(stretches: Sequence[Stretch], count: SpeakerCount, groups_of: GroupsOf = block_groups) -> Diarized:
    """Group all windows into speakers "SPK0", "SPK1", ..., and make turns of each stretch's windows.

    A turn may be a laugh or a cough; labelling.py knows who says something. `groups_of`: see cluster().
    """
    stretches = sorted((one for one in stretches if len(one.windows)), key=lambda one: one.start)
    if not stretches:
        return Diarized((), {})
    embeddings = np.concatenate([one.embeddings for one in stretches])
    labels = cluster(embeddings, list(itertools.chain(*(one.weights for one in stretches))), count, groups_of)
    labels = _smoothed(stretches, embeddings, labels)
    centres = centres_of(embeddings, labels)
    names = [f"SPK{number}" for number in range(len(centres))]
    turns: list[SpeakerTurn] = []
    done = 0
    for one in stretches:
        part = slice(done, done + len(one.windows))
        done = part.stop
        turns += _turns(one, labels[part], one.embeddings @ centres.T, names)
    return Diarized(tuple(sorted(turns, key=lambda turn: turn.start)), dict(zip(names, centres, strict=True)))


def _smoothed(stretches: Sequence[Stretch], embeddings: Embeddings, labels: Labels) -> Labels:
    """The labels of all windows without doubtful changes, unless a speaker would be lost.

    A short window says less about the voice, so its similarities count by its length. Channels, which are heard at the
    same time, follow each other here.
    """
    if not labels.any():
        return labels
    seconds = np.diff(np.concatenate([one.windows for one in stretches]), axis=1)
    lengths = (seconds * SAMPLE_RATE / WINDOW_SAMPLES).astype(np.float32)
    similarities = embeddings @ centres_of(embeddings, labels).T * lengths
    channels = np.repeat([one.channel or 0 for one in stretches], [len(one.windows) for one in stretches])
    by_channel = np.argsort(channels, kind="stable")
    path = np.empty_like(labels)
    path[by_channel] = most_alike(similarities[by_channel])
    smoothed = in_order(path)
    return smoothed if smoothed.max() == labels.max() else labels


def most_alike(similarities: Similarities) -> Labels:
    """The most similar path through the speakers: (T, K) similarities of windows in order of time -> (T,), by Viterbi.

    Each change of the speaker costs CHANGE_COST, so that one doubtful window does not interrupt a turn. The rows are
    short, so that NumPy would take longer for each.
    """
    total, *rows = similarities.tolist()
    before = []
    for row in rows:
        most = max(total)
        best = total.index(most)
        leads = [one - most for one in total]  # so that they stay exact for hours
        before.append([speaker if lead >= -CHANGE_COST else best for speaker, lead in enumerate(leads)])
        total = [max(lead, -CHANGE_COST) + more for lead, more in zip(leads, row, strict=True)]
    path = [total.index(max(total))]
    for choices in reversed(before):
        path.append(choices[path[-1]])
    return np.array(path[::-1])


def _is_doubtful(similarities: Similarities) -> npt.NDArray[np.bool_]:
    """Whether two voices may be heard in each window: it sounds like two speakers about as much."""
    if similarities.shape[1] < 2:
        return np.zeros(len(similarities), np.bool_)
    ranked = np.sort(similarities, axis=1)
    doubtful: npt.NDArray[np.bool_] = (ranked[:, -2] > _OVERLAP_SIMILARITY) & (
        ranked[:, -1] - ranked[:, -2] < _OVERLAP_MARGIN
    )
    return doubtful


def _turns(stretch: Stretch, labels: Labels, similarities: Similarities, names: Sequence[str]) -> Iterator[SpeakerTurn]:
    """Runs of windows of one speaker."""
    doubtful = _is_doubtful(similarities)
    changes = np.flatnonzero((labels[1:] != labels[:-1]) | (doubtful[1:] != doubtful[:-1]))
    middles = stretch.windows.mean(axis=1)
    start, first = stretch.start, 0
    for last in (*changes.tolist(), len(labels) - 1):  # the last window of each run
        end = stretch.end
        if last + 1 < len(labels):
            share = _change(similarities[last : last + 2], labels[last], labels[last + 1])
            end = float(middles[last] + share * (middles[last + 1] - middles[last]))
        yield SpeakerTurn(round(start, 3), round(end, 3), names[labels[first]], bool(doubtful[first]), stretch.channel)
        start, first = end, last + 1


def _change(similarities: Similarities, before: int, after: int) -> float:
    """Where between the middles of two windows the speaker changes, as a share of that time.

    A window across a change is less like the first speaker the more of it comes after the change. So both similarities
    are interpolated between the middles, and the change is where they are equal. (2, K) -> 0 to 1.
    """
    if before == after:
        return 0.5
    leads = similarities[:, before] - similarities[:, after]
    first, second = max(float(leads[0]), 0.0), max(-float(leads[1]), 0.0)
    return first / (first + second) if first + second else 0.5
