"""Onsets from emissions: exact for regular speech, robust against guesses and pauses, near a synthesizer's truth."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.manifest import FrameClock
from twostage_asr.engine.words.aligner import HALF_WINDOW_S
from twostage_asr.engine.words.timer import TYPICAL_BYTES_PER_S
from twostage_asr.engine.words.token_times import FloatArray, _solve, token_times

# What the published Fun-ASR-Nano emits for the 13 characters of its example clip (zh.mp3), a frame each, and when they
# begin, s, as the waveform shows it to the eye.
REAL_TEXT = "开饭时间早上九点至下午五点"
REAL_FRAMES = [13, 18, 23, 26, 33, 37, 44, 50, 58, 68, 72, 78, 82]
REAL_ONSETS = [0.68, 0.97, 1.27, 1.45, 1.82, 2.10, 2.55, 2.88, 3.27, 3.86, 4.25, 4.57, 4.84]
EMISSIONS = Path(__file__).parents[2] / "data/emissions.json"
RATE = 1.2  # frames per unit of text
LENGTHS = [3.0, 5.0, 2.0, 7.0, 4.0, 3.0, 6.0, 2.0, 5.0]


def regular_speech(shift: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """True onsets of tokens that follow each other at RATE, and centres in their middles."""
    lengths = np.array(LENGTHS)
    onsets = shift + RATE * (lengths.cumsum() - lengths)
    return onsets, onsets + RATE * lengths / 2


def times(centres: FloatArray, lengths: list[float] = LENGTHS) -> tuple[FloatArray, FloatArray]:
    onsets, ends = token_times(centres[None], np.array([lengths]), np.array([len(lengths)]), RATE)
    return onsets[0], ends[0]


def test_tokens_at_an_even_rate_are_recovered_exactly() -> None:
    onsets, centres = regular_speech()
    found, ends = times(centres)
    np.testing.assert_allclose(found, onsets, atol=1e-12)
    np.testing.assert_allclose(ends[:-1], onsets[1:])
    np.testing.assert_allclose(ends[-1], onsets[-1] + 1.2 * RATE * LENGTHS[-1])


def test_a_token_guessed_early_stays_where_its_neighbours_leave_room() -> None:
    onsets, centres = regular_speech()
    early, late = centres.copy(), centres.copy()
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
    assert np.abs(found - onsets).max() < 1.0
    assert ends[4] < onsets[4] + 1.5 * RATE * LENGTHS[4]
    assert np.array_equal(ends[:4], found[1:5])


def test_one_token_takes_the_typical_rate() -> None:
    onsets, ends = times(np.array([10.0]), [4.0])
    assert onsets[0] == pytest.approx(10.0 - RATE * 2)
    assert ends[0] == pytest.approx(10.0 - RATE * 2 + 1.2 * RATE * 4)


@given(st.integers(0, 2**31), st.integers(1, 60))
def test_the_least_sum_of_squares_is_found(seed: int, size: int) -> None:
    """Of two clips at once: the gradient of each one's own sum is zero."""
    rng = np.random.default_rng(seed)
    middles, emission_weight = rng.random((2, 2, size)) + 0.01
    expected, length_weight = rng.random((2, 2, size)) + 0.01
    length_weight = length_weight[:, :-1]
    onsets = _solve(middles, expected, emission_weight, length_weight)
    gradient = emission_weight * (onsets - middles)
    pull = length_weight * (np.diff(onsets, axis=1) - expected[:, :-1])
    gradient[:, :-1] -= pull
    gradient[:, 1:] += pull
    np.testing.assert_allclose(gradient, 0.0, atol=1e-9)


@given(
    st.lists(st.lists(st.tuples(st.floats(0.1, 30), st.floats(1, 20)), min_size=1, max_size=12), min_size=1, max_size=5)
)
def test_a_clip_in_a_batch_gets_the_times_it_gets_alone(clips: list[list[tuple[float, float]]]) -> None:
    longest = max(map(len, clips))
    centres, lengths = np.full((len(clips), longest), 1e4), np.zeros((len(clips), longest))
    for b, clip in enumerate(clips):
        gaps, own_lengths = np.array(clip).T
        centres[b, : len(clip)] = gaps.cumsum()
        lengths[b, : len(clip)] = own_lengths
    num_tokens = np.array([len(clip) for clip in clips])
    onsets, ends = token_times(centres, lengths, num_tokens, RATE)
    for b, n in enumerate(num_tokens.tolist()):
        alone = token_times(centres[b : b + 1, :n], lengths[b : b + 1, :n], num_tokens[b : b + 1], RATE)
        np.testing.assert_allclose(onsets[b, :n], alone[0][0], atol=1e-9)
        np.testing.assert_allclose(ends[b, :n], alone[1][0], atol=1e-9)
        assert np.isfinite(onsets[b, :n]).all()
        assert np.isfinite(ends[b, :n]).all()


# Median and 95th percentile of the errors, in milliseconds. Measured: English 35 to 37 and 121 to 126, Mandarin 30 to
# 31 and 95 to 98.
ONSET_BOUNDS = {"en": (40, 135), "zh": (35, 105)}


@pytest.mark.parametrize("clips", json.loads(EMISSIONS.read_text()), ids=lambda clips: clips["name"])
def test_onsets_agree_with_the_synthesizer(clips: dict) -> None:  # type: ignore[type-arg]
    """Emissions of both micro checkpoints for espeak-ng's voices."""
    errors = []
    clock = FrameClock()
    for clip in clips["clips"]:
        centres, lengths = np.array([clip["centres"]]), np.array([clip["lengths"]], np.float64)
        rate = 1 / (TYPICAL_BYTES_PER_S * clock.frame_s)
        onsets, _ = token_times(centres, lengths, np.array([len(clip["centres"])]), rate)
        seconds = onsets[0] * clock.frame_s + HALF_WINDOW_S
        errors += [1000 * abs(float(seconds[token]) - start) for token, start in clip["word_starts"]]
    median, p95 = ONSET_BOUNDS[clips["name"][-2:]]
    assert np.median(errors) < median
    assert np.quantile(errors, 0.95) < p95


def test_onsets_of_the_published_model_are_where_a_human_voice_begins() -> None:
    """Within 60 ms as a rule, as with the synthesizer's voices. The frames alone are 110 ms late."""
    clock = FrameClock()
    lengths = np.array([[len(character.encode()) for character in REAL_TEXT]], np.float64)
    rate = 1 / (TYPICAL_BYTES_PER_S * clock.frame_s)
    onsets, _ = token_times(np.array([REAL_FRAMES], np.float64), lengths, np.array([len(REAL_FRAMES)]), rate)
    errors = onsets[0] * clock.frame_s + HALF_WINDOW_S - REAL_ONSETS
    assert np.median(np.abs(errors)) < 0.060
    assert abs(errors.mean()) < 0.030
