"""Onsets from emissions: exact for regular speech, robust against guesses and pauses, near a synthesizer's truth."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twostage_asr.engine.alignment import HALF_WINDOW_S, TYPICAL_BYTES_PER_S
from twostage_asr.engine.manifest import FrameClock
from twostage_asr.engine.token_times import FINAL_LENGTHENING, _solve_tridiagonal, token_times

EMISSIONS = Path(__file__).parents[1] / "data/emissions.json"
RATE = 1.2  # frames per unit of text
LENGTHS = [3.0, 5.0, 2.0, 7.0, 4.0, 3.0, 6.0, 2.0, 5.0]


def regular_speech(shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """True onsets of tokens that follow each other at RATE, and centres in their middles."""
    lengths = torch.tensor(LENGTHS, dtype=torch.float64)
    onsets = shift + RATE * (lengths.cumsum(0) - lengths)
    return onsets, onsets + RATE * lengths / 2


def times(centres: Tensor, lengths: list[float] = LENGTHS) -> tuple[Tensor, Tensor]:
    onsets, ends = token_times(
        centres[None], torch.tensor([lengths], dtype=torch.float64), torch.tensor([len(lengths)]), RATE
    )
    return onsets[0], ends[0]


def test_tokens_at_an_even_rate_are_recovered_exactly() -> None:
    onsets, centres = regular_speech()
    found, ends = times(centres)
    torch.testing.assert_close(found, onsets)
    torch.testing.assert_close(ends[:-1], onsets[1:])
    torch.testing.assert_close(ends[-1], onsets[-1] + FINAL_LENGTHENING * RATE * LENGTHS[-1])


def test_a_token_guessed_early_stays_where_its_neighbours_leave_room() -> None:
    onsets, centres = regular_speech()
    early, late = centres.clone(), centres.clone()
    early[4] -= 4.0
    late[4] += 4.0
    assert abs(times(early)[0][4] - onsets[4]) < 1.0
    assert times(late)[0][4] - onsets[4] > 1.0


@pytest.mark.parametrize("pause", [6.0, 12.0, 40.0])
def test_a_pause_belongs_to_no_token(pause: float) -> None:
    onsets, centres = regular_speech()
    onsets[5:] += pause
    centres[5:] += pause
    found, ends = times(centres)
    assert (found - onsets).abs().max() < 1.0
    assert ends[4] < onsets[4] + 1.5 * RATE * LENGTHS[4]
    assert torch.equal(ends[:4], found[1:5])


def test_one_token_takes_the_typical_rate() -> None:
    onsets, ends = times(torch.tensor([10.0], dtype=torch.float64), [4.0])
    assert float(onsets) == pytest.approx(10.0 - RATE * 2)
    assert float(ends) == pytest.approx(10.0 - RATE * 2 + FINAL_LENGTHENING * RATE * 4)


@given(st.integers(0, 2**31), st.integers(1, 60))
@settings(deadline=None)
def test_a_tridiagonal_system_is_solved(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    below, above, more, right = torch.rand(4, 2, size, generator=generator, dtype=torch.float64)
    below[:, 0], above[:, -1] = 0.0, 0.0
    diagonal = below + above + more + 0.01
    dense = torch.diag_embed(diagonal) - torch.diag_embed(below[:, 1:], -1) - torch.diag_embed(above[:, :-1], 1)
    solved = _solve_tridiagonal(-below, diagonal, -above, right)
    torch.testing.assert_close(solved, torch.linalg.solve(dense, right))


@given(
    st.lists(st.lists(st.tuples(st.floats(0.1, 30), st.floats(1, 20)), min_size=1, max_size=12), min_size=1, max_size=5)
)
@settings(deadline=None)
def test_a_clip_in_a_batch_gets_the_times_it_gets_alone(clips: list[list[tuple[float, float]]]) -> None:
    longest = max(map(len, clips))
    centres = torch.full((len(clips), longest), 1e4, dtype=torch.float64)
    lengths = torch.zeros_like(centres)
    for b, clip in enumerate(clips):
        gaps, own_lengths = torch.tensor(clip, dtype=torch.float64).T
        centres[b, : len(clip)] = gaps.cumsum(0)
        lengths[b, : len(clip)] = own_lengths
    num_tokens = torch.tensor([len(clip) for clip in clips])
    onsets, ends = token_times(centres, lengths, num_tokens, RATE)
    for b, n in enumerate(num_tokens.tolist()):
        alone = token_times(centres[b : b + 1, :n], lengths[b : b + 1, :n], num_tokens[b : b + 1], RATE)
        torch.testing.assert_close(onsets[b, :n], alone[0][0])
        torch.testing.assert_close(ends[b, :n], alone[1][0])
        assert torch.isfinite(onsets[b, :n]).all()
        assert torch.isfinite(ends[b, :n]).all()


@pytest.mark.parametrize("clips", json.loads(EMISSIONS.read_text()), ids=lambda clips: clips["name"])
def test_onsets_agree_with_the_synthesizer(clips: dict) -> None:  # type: ignore[type-arg]
    """Emissions of both micro checkpoints for espeak-ng's voices: within 60 ms as a rule and 150 ms in 95 of 100."""
    errors = []
    clock = FrameClock()
    for clip in clips["clips"]:
        centres = torch.tensor([clip["centres"]], dtype=torch.float64)
        lengths = torch.tensor([clip["lengths"]], dtype=torch.float64)
        rate = 1 / (TYPICAL_BYTES_PER_S * clock.frame_s)
        onsets, _ = token_times(centres, lengths, torch.tensor([len(clip["centres"])]), rate)
        seconds = onsets[0] * clock.frame_s + HALF_WINDOW_S
        errors += [abs(float(seconds[token]) - start) for token, start in clip["word_starts"]]
    errors_s = torch.tensor(errors)
    assert errors_s.median() < 0.060
    assert errors_s.quantile(0.95) < 0.150
