"""Speaker embeddings -> one label each: agglomerative clustering by average cosine similarity.

Memory does not grow with the square of the recording. Beyond MAX_POINTS embeddings, neighbours in time that sound alike
are first joined to one point, and what remains is clustered block by block; the clusters of all blocks, as weighted
means, are then clustered once more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from ..errors import ConfigError
from .model import Embeddings

MAX_POINTS = 2000  # embeddings of one linkage, whose distances take 16 MB
MAX_SPEAKERS = 20
SAME_SPEAKER = 0.30  # average cosine similarity of two clusters above which they are one speaker
MIN_SHARE_S = 2.5  # a speaker with less speech is merged into the nearest other one, if there is one
_FINE_SIMILARITY = 0.62  # above which the points of one block are joined before the blocks are
Labels = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpeakerCount:
    """How many speakers there are: exactly, or within bounds."""

    exact: int | None = None
    least: int = 1
    most: int = MAX_SPEAKERS

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if self.exact is not None and self.exact < 1:
            raise ConfigError(f"num_speakers must be at least 1, got {self.exact}")
        if not 1 <= self.least <= self.most:
            raise ConfigError(f"1 <= min_speakers <= max_speakers is needed, got {self.least} and {self.most}")


def cluster(embeddings: Embeddings, weights: Sequence[float] | Weights | None, count: SpeakerCount) -> Labels:
    """The speaker of each embedding, numbered from 0 in the order of their first embedding.

    Args:
        embeddings: (N, D), each row of length 1, in order of time.
        weights: (N,) seconds of speech in each; None counts each as one second.
    """
    if not len(embeddings):
        return np.zeros(0, np.int64)
    shares = np.ones(len(embeddings), np.float32) if weights is None else np.asarray(weights, np.float32)
    fine = _fine_labels(embeddings, shares)
    centres, sizes = _centres(embeddings, shares, fine)
    labels = _joined(centres, sizes, count)[fine]
    return in_order(_refined(embeddings, shares, labels))


def in_order(labels: Labels) -> Labels:
    """The same groups, numbered from 0 in the order of their first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    ranked: Labels = rank[inverse]
    return ranked


def _fine_labels(embeddings: Embeddings, weights: Weights) -> Labels:
    """Labels of at most MAX_POINTS small groups."""
    labels: Labels = np.arange(len(embeddings))
    similarity = _FINE_SIMILARITY
    while True:
        centres, _ = _centres(embeddings, weights, labels)
        if len(centres) <= MAX_POINTS:
            return labels
        joined, offset = np.empty(len(centres), np.int64), 0
        for start in range(0, len(centres), MAX_POINTS):
            block = slice(start, start + MAX_POINTS)
            tree = _tree(centres[block])
            inner = fcluster(tree, 1.0 - similarity, "distance") if tree is not None else np.ones(1, np.int64)
            joined[block] = inner + offset
            offset += int(inner.max())
        labels = in_order(joined)[labels]
        similarity -= 0.1  # so that a further pass, if one is needed, joins more


def _tree(points: Embeddings) -> npt.NDArray[np.float64] | None:
    return linkage(np.maximum(pdist(points, "cosine"), 0.0), "average") if len(points) > 1 else None


def _centres(embeddings: Embeddings, weights: Weights, labels: Labels) -> tuple[Embeddings, Weights]:
    """The weighted mean of each group, of length 1, and its weight."""
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]), np.float32)
    np.add.at(sums, labels, embeddings * weights[:, None])
    sizes = np.bincount(labels, weights, len(sums)).astype(np.float32)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9), sizes


def _joined(points: Embeddings, weights: Weights, count: SpeakerCount) -> Labels:
    """The speakers of at most MAX_POINTS points."""
    tree = _tree(points)
    if tree is None:
        return np.zeros(len(points), np.int64)
    if count.exact is not None:
        return _cut(tree, points, weights, count.exact)
    labels: Labels = fcluster(tree, 1.0 - SAME_SPEAKER, "distance") - 1
    _, sizes = _centres(points, weights, labels)
    found = max(1, int((sizes >= min(MIN_SHARE_S, 0.2 * float(weights.sum()))).sum()))
    return _cut(tree, points, weights, min(max(found, count.least), count.most))


def _cut(tree: npt.NDArray[np.float64], points: Embeddings, weights: Weights, wanted: int) -> Labels:
    """Cut the tree where it has `wanted` clusters that are large enough; the others join the nearest of these."""
    wanted = min(wanted, len(points))
    for total in range(wanted, len(points) + 1):
        labels: Labels = fcluster(tree, total, "maxclust").astype(np.int64) - 1
        centres, sizes = _centres(points, weights, labels)
        large = np.flatnonzero(sizes >= min(MIN_SHARE_S, 0.2 * float(weights.sum())))
        if len(large) >= wanted or total == min(len(points), wanted + 60):
            kept = np.argsort(-sizes, kind="stable")[:wanted]
            nearest = np.argmax(centres @ centres[kept].T, axis=1)
            return np.asarray(nearest[labels], np.int64)
    return labels


def _refined(embeddings: Embeddings, weights: Weights, labels: Labels) -> Labels:
    """Give each embedding to the nearest centre, twice, as k-means does."""
    for _ in range(2):
        centres, sizes = _centres(embeddings, weights, labels)
        similarities = embeddings @ centres.T
        similarities[:, sizes == 0] = -np.inf
        updated = np.argmax(similarities, axis=1)
        if len(np.unique(updated)) < len(np.unique(labels)):
            break
        labels = updated
    return labels
