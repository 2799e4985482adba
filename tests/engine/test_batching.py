"""plan_batches: every clip once, no batch above its bounds, similar lengths together."""

from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.batching import plan_batches

FRAMES = st.lists(st.integers(1, 500), max_size=60)


@given(FRAMES, st.integers(1, 2000), st.integers(1, 16))
def test_every_clip_is_in_one_batch_within_the_bounds(frames: list[int], max_frames: int, max_size: int) -> None:
    batches = plan_batches(frames, max_frames=max_frames, max_size=max_size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(frames)))
    for batch in batches:
        padded = max(frames[i] for i in batch) * len(batch)
        assert len(batch) <= max_size
        assert padded <= max_frames or len(batch) == 1


@given(FRAMES)
def test_longer_clips_come_first(frames: list[int]) -> None:
    batches = plan_batches(frames, max_frames=1000, max_size=8)
    order = [frames[i] for batch in batches for i in batch]
    assert order == sorted(frames, reverse=True)


def test_a_batch_is_filled_before_the_next_begins() -> None:
    assert plan_batches([10, 10, 10, 10], max_frames=20, max_size=8) == [[0, 1], [2, 3]]
