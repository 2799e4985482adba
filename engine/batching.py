"""Utterances -> batches for stage 1: similar lengths together, each batch bounded by its padded frames."""

from collections.abc import Sequence


def plan_batches(num_frames: Sequence[int], *, max_frames: int, max_size: int) -> list[list[int]]:
    """Cut clips into batches.

    Args:
        num_frames: encoder frames of each clip.
        max_frames: most frames of a batch, padding included; a clip longer than that is a batch of its own.
        max_size: most clips of a batch.

    Returns:
        Indices into `num_frames`, each once, the longest clips first: what takes longest to decode starts first, and
        memory peaks at the start rather than at the end.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(num_frames)), key=lambda i: -num_frames[i]):
        if not batches or len(batches[-1]) == max_size or (len(batches[-1]) + 1) * longest > max_frames:
            batches.append([])
            longest = num_frames[index]
        batches[-1].append(index)
    return batches
