"""The search in blocks: the path of a search that holds all states, from a few of them at a time."""

import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.words.test_viterbi import batches, collapse, emissions_of, min_frames
from twostage_asr.engine.words import viterbi_blocks
from twostage_asr.engine.words.viterbi import BLANK, batched_paths, path_log_probs
from twostage_asr.engine.words.viterbi_blocks import FrameScores, Path, path_in_blocks

TOKENS = 4  # of the vocabulary, besides blank


class Work(NamedTuple):
    """The most that a search has used at any time."""

    cells: int  # frames x states of a block
    kept: int  # blocks whose emissions are in memory


def found(emissions: Tensor, targets: list[int]) -> tuple[Path, Work]:
    """The path of one clip, (T, K)."""
    cells, parts, kept = [], [], []

    def score(frames: slice, tokens: slice) -> FrameScores:
        part = emissions[None, frames].numpy().copy()
        parts.append(weakref.ref(part))
        kept.append(sum(each() is not None for each in parts))
        window = torch.tensor([targets[tokens]])
        cells.append(part.shape[1] * (2 * window.shape[1] + 1))
        return FrameScores(torch.from_numpy(part), window, torch.from_numpy(part.argmax(-1)))

    return path_in_blocks(score, np.array(targets), len(emissions)), Work(max(cells), max(kept))


def spoken(targets: list[int], step: int, seed: int) -> Tensor:
    """Emissions (T, K) of a head that hears the targets, `step` frames apart, with some noise."""
    logits = torch.randn(step * len(targets), TOKENS + 1, generator=torch.Generator().manual_seed(seed))
    logits[:, BLANK] += 6.0
    for i, target in enumerate(targets):
        logits[step * i, target] += 12.0
    return logits.log_softmax(-1)


@given(batch=batches(), block=st.integers(1, 9))
def test_a_window_of_the_whole_text_gives_the_path_of_the_whole(batch, block: int) -> None:  # type: ignore[no-untyped-def]
    emissions, targets, frame_lens, target_lens = batch
    states = batched_paths(*batch)
    for b, (num_frames, num_targets) in enumerate(zip(frame_lens.tolist(), target_lens.tolist(), strict=True)):
        if not num_targets:
            continue
        clip = emissions[b, :num_frames]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(viterbi_blocks, "BLOCK", block)
            path, _ = found(clip, targets[b, :num_targets].tolist())
        assert torch.equal(path.states[0], states[b, :num_frames])
        of_targets = path_log_probs(emissions[b : b + 1], targets[b : b + 1], states[b : b + 1])[0, :num_frames]
        assert torch.equal(path.log_probs[0], of_targets)
        assert torch.equal(path.blank_log_probs[0], clip[:, BLANK])
        assert torch.equal(path.best[0], clip.argmax(-1))


def test_windows_follow_a_text_that_fits_and_bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viterbi_blocks, "BLOCK", 8)
    monkeypatch.setattr(viterbi_blocks, "WINDOW", 16)
    targets = np.random.default_rng(0).integers(1, TOKENS + 1, 300).tolist()
    emissions = spoken(targets, 3, seed=1)
    path, work = found(emissions, targets)
    lens = torch.tensor([len(emissions)]), torch.tensor([len(targets)])
    assert torch.equal(path.states, batched_paths(emissions[None], torch.tensor([targets]), *lens))
    assert work == (8 * (2 * 16 + 1), 1)


def test_windows_come_back_after_sounds_that_the_text_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viterbi_blocks, "BLOCK", 8)
    monkeypatch.setattr(viterbi_blocks, "WINDOW", 60)
    text, other = (np.random.default_rng(i).integers(1, TOKENS + 1, 200).tolist() for i in range(2))
    emissions = torch.cat([spoken(part, 3, seed=1) for part in (text[:100], other[:40], text[100:])])
    path, _ = found(emissions, text)
    lens = torch.tensor([len(emissions)]), torch.tensor([len(text)])
    assert torch.equal(path.states, batched_paths(emissions[None], torch.tensor([text]), *lens))


@given(
    targets=st.lists(st.integers(1, 3), min_size=1, max_size=40),
    spare=st.integers(0, 20),
    block=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_there_is_a_path_however_badly_a_text_fits(targets: list[int], spare: int, block: int, seed: int) -> None:
    emissions = emissions_of(seed, 1, min_frames(targets) + spare, 4)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(viterbi_blocks, "BLOCK", block)
        patch.setattr(viterbi_blocks, "WINDOW", 2 * block)
        path, _ = found(emissions, targets)
    columns = [BLANK if state % 2 == 0 else targets[state // 2] for state in path.states[0].tolist()]
    assert collapse(columns) == targets
    emitted = emissions.gather(1, torch.tensor(columns)[:, None])[:, 0]
    assert torch.equal(path.log_probs[0], emitted)


def test_scores_that_are_no_numbers_come_back_as_such() -> None:
    emissions = torch.full((40, TOKENS + 1), torch.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(viterbi_blocks, "BLOCK", 4)
        patch.setattr(viterbi_blocks, "WINDOW", 8)
        path, _ = found(emissions, [1, 2, 3] * 6)
    assert path.log_probs.isnan().all()
