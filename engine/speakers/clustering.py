"""Speaker embeddings -> one label each: agglomerative clustering by average cosine similarity.

    windows -> average linkage -> voices with enough speech -> alike centres are one -> nearest centres

Average linkage joins the two clusters whose windows are most alike on average, so it needs no number of speakers. It
compares all pairs, so a recording of more than MAX_POINTS windows is first reduced to small groups, block by block, and
the groups are linked instead. Memory is that of one block, and time grows linearly with the duration.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ConfigError
from .model import Embeddings

MAX_POINTS = 2000  # points of one linkage, whose distances take 16 MB: 25 minutes of speech
MAX_SPEAKERS = 20
SAME_VOICE = 0.45  # average cosine similarity of two clusters' windows, from which on they are one voice
SAME_SPEAKER = 0.51  # cosine similarity of two speakers' centres, from which on they are one,
SAME_LARGE = 0.62  # and of two that have LARGE_SHARE of all seconds and LARGE_S each. People who talk over each other
LARGE_SHARE, LARGE_S = 0.22, 5.0  # are alike, since many windows hear both. A small cluster as alike is a mixture.
LEAST_SPEECH = 0.45  # times the square root of all seconds: a cluster with less speech is no speaker of its own,
ENOUGH_SPEECH_S = 8.0  # but one with so much is, however long the recording is
_GROUP_SIMILARITY, _MAX_GROUPS = 0.62, 64  # of the groups of one block: their least similarity, unless they are more
_REFINEMENTS = 5
Labels = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]
Tree = npt.NDArray[np.float64]
GroupsOf = Callable[[Embeddings], Labels]


@dataclass(frozen=True, slots=True)
class SpeakerCount:
    """How many speakers there are: exactly, or within bounds."""

    exact: int | None = None
    least: int = 1
    most: int = MAX_SPEAKERS

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most speakers."""
        return (self.least, self.most) if self.exact is None else (self.exact, self.exact)

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if self.exact is not None and self.exact < 1:
            raise ConfigError(f"num_speakers must be at least 1, got {self.exact}")
        if not 1 <= self.least <= self.most:
            raise ConfigError(f"1 <= min_speakers <= max_speakers is needed, got {self.least} and {self.most}")


def block_groups(points: Embeddings) -> Labels:
    """Groups of alike points, (N, D) with N at most MAX_POINTS, numbered from 0."""
    tree = _tree(points)
    labels = _flat(tree, 1.0 - _GROUP_SIMILARITY, "distance")
    if labels.max() > _MAX_GROUPS:
        labels = _flat(tree, _MAX_GROUPS, "maxclust")
    return labels - 1


def cluster(
    embeddings: Embeddings,
    weights: Sequence[float] | Weights | None,
    count: SpeakerCount,
    groups_of: GroupsOf = block_groups,
) -> Labels:
    """The speaker of each embedding, numbered from 0 in the order of their first embedding.

    Args:
        embeddings: (N, D), each row of length 1, in order of time.
        weights: (N,) seconds of speech that each stands for; None counts each as one second.
        groups_of: gives what block_groups() does; see ahead.py.
    """
    if not len(embeddings):
        return np.zeros(0, np.int64)
    seconds = np.ones(len(embeddings), np.float32) if weights is None else np.asarray(weights, np.float32)
    if len(embeddings) <= MAX_POINTS:
        labels = _speakers(embeddings, seconds, count)
    else:
        groups = _groups(embeddings, seconds, groups_of)
        labels = _speakers(*_centres(embeddings, seconds, groups), count)[groups]
    return in_order(_refined(embeddings, seconds, labels))


def in_order(labels: Labels) -> Labels:
    """The same groups, numbered from 0 in the order of their first members."""
    ranks: dict[int, int] = {}
    return np.array([ranks.setdefault(label, len(ranks)) for label in labels.tolist()], np.int64)


def centres_of(embeddings: Embeddings, labels: Sequence[int] | Labels) -> Embeddings:
    """The mean direction of each label from 0 on: (K, D), each row of length 1, or 0 where there is no embedding."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(np.asarray(labels, np.int64))
    present = sizes.nonzero()[0]
    sums = np.zeros((len(sizes), embeddings.shape[1]), np.float32)
    if len(present):
        sums[present] = np.add.reduceat(embeddings[order], (sizes.cumsum() - sizes)[present])
    centres: Embeddings = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return centres


def _groups(embeddings: Embeddings, seconds: Weights, groups_of: GroupsOf) -> Labels:
    """(N,) labels of at most MAX_POINTS groups of alike neighbours in time; of each embedding if they are few."""
    labels: Labels = np.arange(len(embeddings))
    points, sizes = embeddings, seconds
    while len(points) > MAX_POINTS:
        joined, offset = np.empty(len(points), np.int64), 0
        for start in range(0, len(points), MAX_POINTS):
            block = slice(start, start + MAX_POINTS)
            joined[block] = offset + groups_of(points[block])
            offset = int(joined[block].max()) + 1
        labels = joined[labels]
        points, sizes = _centres(points, sizes, joined)
    return labels


def import_scipy() -> None:
    """Half a second at its first import, which a run without speakers does not need."""
    import scipy.cluster.hierarchy
    import scipy.spatial.distance  # noqa: F401


def _tree(points: Embeddings) -> Tree:
    if len(points) == 1:
        return np.zeros((0, 4))
    from scipy.cluster.hierarchy import linkage  # see import_scipy()
    from scipy.spatial.distance import squareform

    distances = _similarities(points, points)
    np.subtract(1.0, distances, out=distances)
    np.maximum(distances, 0.0, out=distances)
    tree: Tree = linkage(squareform(distances, checks=False), "average")
    return tree


def _similarities(points: Embeddings, others: Embeddings) -> Embeddings:
    """(N, D) and (M, D) -> (N, M). By PyTorch, which takes as many threads as the run allows it.

    NumPy's library takes all cores, and its threads spin for up to 30 ms after each product.
    """
    products: Embeddings = (torch.from_numpy(points) @ torch.from_numpy(others).T).numpy()
    return products


def _flat(tree: Tree, bound: float, criterion: str) -> Labels:
    """The clusters of a tree, counted from 1."""
    from scipy.cluster.hierarchy import fcluster

    labels: Labels = fcluster(tree, bound, criterion).astype(np.int64)
    return labels


def _centres(embeddings: Embeddings, seconds: Weights, labels: Labels) -> tuple[Embeddings, Weights]:
    """The weighted mean direction of each group, and its seconds."""
    return centres_of(embeddings * seconds[:, None], labels), np.bincount(labels, seconds).astype(np.float32)


def _speakers(points: Embeddings, seconds: Weights, count: SpeakerCount) -> Labels:
    """The speakers of at most MAX_POINTS points."""
    least, most = count.bounds
    least = min(least, len(points))
    # If all points are alike, the average of any two clusters is as well.
    if least == 1 and _similarities(points, points).min() >= SAME_VOICE:
        return np.zeros(len(points), np.int64)
    tree = _tree(points)
    labels = _voices(tree, seconds, least)
    if labels.max() + 1 < least:  # there is too little speech for this number, so each cluster is a speaker
        labels = _flat(tree, least, "maxclust") - 1
    is_sure = labels >= 0
    if not is_sure.all():
        centres, _ = _centres(points[is_sure], seconds[is_sure], labels[is_sure])
        labels = np.where(is_sure, labels, np.argmax(_similarities(points, centres), axis=1))
    return _joined(points, seconds, labels, (least, most))


def _voices(tree: Tree, seconds: Weights, least: int) -> Labels:
    """The voice of each point, from 0 on, or -1 where it is in a cluster with too little speech.

    From the root on, a cluster is divided into those of its two parts that have enough speech, as long as the parts are
    less alike than SAME_VOICE or there are fewer voices than `least`. A cluster whose parts both have too little stays
    whole, so that a voice is not lost because it varies.
    """
    num = len(tree) + 1
    parts = tree[:, :2].astype(np.int64).tolist()
    similarities = (1.0 - tree[:, 2]).tolist()
    sizes = seconds.tolist()
    for first, second in parts:
        sizes.append(sizes[first] + sizes[second])
    enough = min(LEAST_SPEECH * math.sqrt(sizes[-1]), ENOUGH_SPEECH_S) - 1e-3
    voices = {2 * num - 2}
    for row in reversed(range(len(tree))):  # the least alike parts come first
        if similarities[row] >= SAME_VOICE and len(voices) >= least:
            break
        large = {part for part in parts[row] if sizes[part] >= enough}
        if num + row in voices and large:
            voices = voices - {num + row} | large
    labels = [-1] * (2 * num - 1)
    for label, voice in enumerate(sorted(voices)):
        labels[voice] = label
    for row in reversed(range(len(tree))):
        if labels[num + row] >= 0:
            first, second = parts[row]
            labels[first] = labels[second] = labels[num + row]
    return np.array(labels[:num])


def _joined(points: Embeddings, seconds: Weights, labels: Labels, bounds: tuple[int, int]) -> Labels:
    """Join the two speakers that are most alike, as long as they are one or there are too many."""
    least, most = bounds
    large = max(LARGE_SHARE * float(seconds.sum()), LARGE_S)
    while (num := int(labels.max()) + 1) > least:
        centres, spoken = _centres(points, seconds, labels)
        are_large = np.minimum.outer(spoken, spoken) >= large
        excess = centres @ centres.T - np.where(are_large, SAME_LARGE, SAME_SPEAKER)
        np.fill_diagonal(excess, -np.inf)
        kept, joined = sorted(divmod(int(np.argmax(excess)), num))
        if num <= most and excess[kept, joined] < 0:
            break
        labels = np.where(labels == joined, kept, labels - (labels > joined))
    return labels


def _refined(embeddings: Embeddings, seconds: Weights, labels: Labels) -> Labels:
    """Give each embedding to the nearest centre, a few times. No speaker is lost by it."""
    num = int(labels.max()) + 1
    for _ in range(_REFINEMENTS if num > 1 else 0):
        nearest = np.argmax(_similarities(embeddings, _centres(embeddings, seconds, labels)[0]), axis=1)
        if np.array_equal(nearest, labels) or len(np.unique(nearest)) < num:
            break
        labels = nearest
    return labels
