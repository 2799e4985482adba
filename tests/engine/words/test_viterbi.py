"""All searches for the best CTC path: equal to each other and to trying every path."""

import itertools
import operator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.interpreted import interpret
from twostage_asr.engine.words.viterbi import BLANK, batched_paths, path_log_probs, torchaudio_paths

SEARCHES = [torchaudio_paths, batched_paths]


def collapse(columns: list[int]) -> list[int]:
    """What a CTC path spells: equal neighbours merged, then blanks dropped."""
    return [column for column, _ in itertools.groupby(columns) if column != BLANK]


def min_frames(targets: list[int]) -> int:
    """The fewest frames that can emit `targets`: one each, and a blank between two equal neighbours."""
    return len(targets) + sum(map(operator.eq, targets, targets[1:]))


def emissions_of(seed: int, num_clips: int, num_frames: int, num_columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_clips, num_frames, num_columns, generator=generator).mul(3).log_softmax(-1)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clips of different lengths; few distinct targets, so that repetitions are common; some as short as can be."""
    num_columns = draw(st.integers(2, 4))
    clips = draw(st.lists(st.lists(st.integers(1, num_columns - 1), max_size=7), min_size=1, max_size=4))
    spare = [draw(st.integers(0, 5)) for _ in clips]
    frame_lens = torch.tensor([max(min_frames(clip) + more, 1) for clip, more in zip(clips, spare, strict=True)])
    targets = torch.ones(len(clips), max(map(len, clips)), dtype=torch.int64)
    for row, clip in zip(targets, clips, strict=True):
        row[: len(clip)] = torch.tensor(clip, dtype=torch.int64)
    padding = draw(st.integers(0, 3))
    emissions = emissions_of(draw(st.integers(0, 2**31)), len(clips), int(frame_lens.max()) + padding, num_columns)
    return emissions, targets, frame_lens, torch.tensor([len(clip) for clip in clips])


@given(batches())
def test_both_searches_find_the_same_paths(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    assert torch.equal(torchaudio_paths(*batch), batched_paths(*batch))


def test_our_kernels_say_what_tensor_operations_say() -> None:
    script = Path(__file__).with_name("interpreted_kernels.py")
    assert interpret(script) == "60 batches agree\n"


@pytest.mark.parametrize("search", SEARCHES)
@given(batch=batches())
def test_a_path_spells_its_targets_and_stays_zero_in_the_padding(search, batch) -> None:  # type: ignore[no-untyped-def]
    _, targets, frame_lens, target_lens = batch
    states = search(*batch)
    for row, clip, num_frames, num_targets in zip(states, targets, frame_lens, target_lens, strict=True):
        columns = [BLANK if state % 2 == 0 else int(clip[state // 2]) for state in row[:num_frames].tolist()]
        assert collapse(columns) == clip[:num_targets].tolist()
        assert not row[num_frames:].any()


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("clip", [[], [1], [2, 1], [1, 1], [1, 2, 2], [1, 1, 1], [2, 2, 1]])
@pytest.mark.parametrize("spare", [0, 1, 2])
def test_no_other_path_is_better(search, clip: list[int], spare: int) -> None:  # type: ignore[no-untyped-def]
    num_frames = max(min_frames(clip) + spare, 1)
    check_against_all_paths(search, emissions_of(spare, 1, num_frames, 3), clip)


@pytest.mark.parametrize("clip", [[1, 2], [2, 2], [1, 2, 1]])
@given(seed=st.integers(0, 2**31), spare=st.integers(0, 2))
def test_no_other_path_is_better_where_many_tie(clip: list[int], seed: int, spare: int) -> None:
    emissions = emissions_of(seed, 1, min_frames(clip) + spare, 3)
    check_against_all_paths(batched_paths, (emissions / 2).round() * 2, clip)


def check_against_all_paths(search, emissions: Tensor, clip: list[int]) -> None:  # type: ignore[no-untyped-def]
    num_frames = emissions.shape[1]
    targets = torch.tensor([clip], dtype=torch.int64)
    states = search(emissions, targets, torch.tensor([num_frames]), torch.tensor([len(clip)]))
    all_scores = [
        sum(float(emissions[0, t, column]) for t, column in enumerate(path))
        for path in itertools.product(range(3), repeat=num_frames)
        if collapse(list(path)) == clip
    ]
    assert float(path_log_probs(emissions, targets, states).sum()) == pytest.approx(max(all_scores), abs=1e-5)


@pytest.mark.parametrize("search", SEARCHES)
@given(batch=batches())
def test_a_clip_in_a_batch_gets_the_path_it_gets_alone(search, batch) -> None:  # type: ignore[no-untyped-def]
    together = search(*batch)
    emissions, targets, frame_lens, target_lens = batch
    for b, (num_frames, num_targets) in enumerate(zip(frame_lens, target_lens, strict=True)):
        clip = emissions[b : b + 1, :num_frames], targets[b : b + 1, :num_targets]
        alone = search(*clip, frame_lens[b : b + 1], target_lens[b : b + 1])
        assert torch.equal(alone[0], together[b, :num_frames])


@given(st.lists(st.integers(1, 3), max_size=8))
def test_fewer_frames_than_min_frames_cannot_spell_the_targets(clip: list[int]) -> None:
    num_frames = min_frames(clip)
    shortest = [clip[0]] if clip else []
    for before, target in itertools.pairwise(clip):
        shortest += [BLANK, target] if before == target else [target]
    assert len(shortest) == num_frames
    assert collapse(shortest) == clip
