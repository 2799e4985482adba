"""BatchPool: every clip once, no batch above its bounds, similar lengths together, nothing that depends on time."""

from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.batching import POOL_BATCHES, BatchPool

FRAMES = st.lists(st.integers(1, 500), max_size=60)


def batches(frames: list[int], *, max_frames: int, max_size: int, at_once: bool = False) -> list[list[int]]:
    """Indices into `frames`, taken whenever the pool is ready, or all at the end."""
    pool: BatchPool[int] = BatchPool(max_frames=max_frames, max_size=max_size)
    taken = []
    for i, num_frames in enumerate(frames):
        pool.add(num_frames, i)
        while pool.is_ready and not at_once:
            taken.append(pool.take())
    while pool:
        taken.append(pool.take(last=True))
    return taken


@given(FRAMES, st.integers(1, 2000), st.integers(1, 16), st.booleans())
def test_every_clip_is_in_one_batch_within_the_bounds(
    frames: list[int], max_frames: int, max_size: int, at_once: bool
) -> None:
    found = batches(frames, max_frames=max_frames, max_size=max_size, at_once=at_once)
    assert sorted(i for batch in found for i in batch) == list(range(len(frames)))
    for batch in found:
        padded = max(frames[i] for i in batch) * len(batch)
        assert 1 <= len(batch) <= max_size
        assert padded <= max_frames or len(batch) == 1


@given(FRAMES)
def test_of_a_whole_list_longer_clips_come_first(frames: list[int]) -> None:
    order = [frames[i] for batch in batches(frames, max_frames=1000, max_size=8, at_once=True) for i in batch]
    assert order == sorted(frames, reverse=True)


@given(FRAMES, st.integers(1, 2000), st.integers(1, 16))
def test_the_pool_holds_no_more_than_its_batches(frames: list[int], max_frames: int, max_size: int) -> None:
    pool: BatchPool[int] = BatchPool(max_frames=max_frames, max_size=max_size)
    for num_frames in frames:
        pool.add(num_frames, 0)
        while pool.is_ready:
            pool.take()
        assert len(pool) < POOL_BATCHES * max_size


def test_a_batch_is_filled_before_the_next_begins() -> None:
    assert batches([10, 10, 10, 10], max_frames=20, max_size=8, at_once=True) == [[0, 1], [2, 3]]


def test_the_first_batch_comes_soon_and_the_pool_grows_from_then_on() -> None:
    pool: BatchPool[int] = BatchPool(max_frames=40, max_size=100)
    held = []
    for i in range(40):
        pool.add(10, i)
        if pool.is_ready:
            held.append(len(pool))
            pool.take()
    assert held[:5] == [4, 8, 12, 16, 16]


def test_batches_go_from_long_to_short_and_take_up_what_comes_meanwhile() -> None:
    pool: BatchPool[str] = BatchPool(max_frames=100, max_size=2)
    for frames in (9, 8, 7, 6, 5):
        pool.add(frames, str(frames))
    assert pool.take() == ["9", "8"]
    pool.add(10, "10")  # too long for this round
    pool.add(6, "late 6")
    assert pool.take() == ["7", "6"]
    assert pool.take() == ["late 6", "5"]
    pool.add(4, "4")
    assert pool.take() == ["10", "4"]  # 4 alone would have been no batch


def test_lengths_are_closer_than_in_sorted_windows_of_the_same_size() -> None:
    """Every length is as frequent as any other: clips of one batch span an eighth of them, a sixteenth at best."""
    frames = [1000 + (i * 7919) % 1000 for i in range(4000)]
    found = batches(frames, max_frames=10**9, max_size=100)[10:-10]
    spans = [max(frames[i] for i in batch) - min(frames[i] for i in batch) for batch in found]
    assert sum(spans) / len(spans) < 1000 / POOL_BATCHES * 0.75
