"""What becomes of samples on their way to a waveform: limits to the last sample, and what is missing."""

import numpy as np
import pytest

from twostage_asr.engine.audio.notes import Notes
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, AudioLimits, Joiner
from twostage_asr.engine.errors import AudioTooLongError, UnsupportedAudioError


def silence(num_channels: int, num_samples: int) -> np.ndarray:
    return np.zeros((num_channels, num_samples), np.float32)


def joiner(*, salvage: bool = False, **limits: float) -> Joiner:
    return Joiner("a", AudioLimits(**limits), salvage=salvage, notes=Notes())  # type: ignore[arg-type]


def missing(one: Joiner) -> list[str]:
    return [warning.message for warning in one.notes.warnings() if warning.code == "missing_audio"]


def test_what_an_input_may_cost_unless_it_is_said_otherwise() -> None:
    assert AudioLimits() == AudioLimits(
        max_duration_s=43_200.0,
        max_bytes=2_147_483_648,
        max_samples=4_294_967_296,
        max_cpu_s=600.0,
        min_sample_rate=1_000,
        max_sample_rate=768_000,
    )


def test_a_limit_may_be_reached_and_not_passed() -> None:
    full = joiner(max_duration_s=1.0, max_samples=2 * SAMPLE_RATE)
    full.push(silence(2, SAMPLE_RATE), SAMPLE_RATE)
    assert full.duration_s == 1.0
    with pytest.raises(AudioTooLongError, match="of all channels or more, at most 32,000 allowed"):
        full.push(silence(2, 1), SAMPLE_RATE)
    with pytest.raises(AudioTooLongError, match=r"1\.0 s of audio or more, at most 1\.0 s allowed"):
        joiner(max_duration_s=1.0).push(silence(1, SAMPLE_RATE + 1), SAMPLE_RATE)
    with pytest.raises(AudioTooLongError, match=r"1\.5 s of audio or more"):
        joiner(max_duration_s=1.0).push_silence(1.5, 1, SAMPLE_RATE)


@pytest.mark.parametrize("sample_rate", [999, 768_001])
def test_rates_beyond_the_limits_are_refused(sample_rate: int) -> None:
    with pytest.raises(UnsupportedAudioError, match="allowed are 1,000 to 768,000"):
        joiner().require_format(sample_rate, 1)


def test_both_ends_of_rates_and_channels_are_taken() -> None:
    joiner().require_format(1_000, 1)
    joiner().require_format(768_000, 64)
    for num_channels in (0, 65):
        with pytest.raises(UnsupportedAudioError, match=f"{num_channels} channels, allowed are 1 to 64"):
            joiner().require_format(SAMPLE_RATE, num_channels)


def test_parts_of_other_rates_add_up() -> None:
    one = joiner()
    assert one.duration_s == 0.0
    for rate in (8_000, 16_000, 48_000):
        one.push(silence(1, rate), rate)
    assert one.duration_s == 3.0
    assert len(one.finish()) == pytest.approx(3 * SAMPLE_RATE, abs=2)


def test_silence_is_as_long_as_it_is_said_to_be_and_no_sample_longer() -> None:
    one = joiner()
    one.push_silence(70.0, 2, SAMPLE_RATE)
    waveform = one.finish()
    assert waveform.shape == (70 * SAMPLE_RATE,) and not waveform.any()


def test_a_quarter_of_a_second_may_be_missing() -> None:
    one = joiner()
    one.push(silence(1, 10 * SAMPLE_RATE), SAMPLE_RATE)
    one.require_complete(10.25)
    one.require_complete(9.0)
    assert not missing(one)
    with pytest.raises(UnsupportedAudioError, match=r"truncated or damaged: 10\.00 s of 10\.50 s can be decoded"):
        one.require_complete(10.5)
    with pytest.raises(UnsupportedAudioError, match=r"9\.50 s of 10\.00 s can be decoded"):
        one.require_complete(10.0, lost_s=0.5)


def test_what_is_missing_of_a_salvaged_file_is_said() -> None:
    one = joiner(salvage=True)
    one.push(silence(1, 10 * SAMPLE_RATE), SAMPLE_RATE)
    one.require_complete(12.0, lost_s=1.0)
    one.require_complete(10.0, lost_s=0.1)
    one.require_complete(10.25)
    assert missing(one) == ["3.00 s of 12.00 s could not be decoded", "0.10 s of 10.00 s could not be decoded"]


def test_one_sample_is_no_audio() -> None:
    one = joiner()
    one.push(silence(1, 1), SAMPLE_RATE)
    with pytest.raises(UnsupportedAudioError, match=r"1 sample\(s\) at 16 kHz, at least 2 are needed"):
        one.finish()
    with pytest.raises(UnsupportedAudioError, match="no samples"):
        joiner().finish()
    two = joiner()
    two.push(silence(1, 2), SAMPLE_RATE)
    assert len(two.finish()) == 2


def test_samples_that_are_no_numbers_are_counted() -> None:
    one = joiner()
    one.push(np.array([[0.0, np.nan, np.inf, 0.5]], np.float32), SAMPLE_RATE)
    with pytest.raises(UnsupportedAudioError, match="2 of 4 samples are NaN or infinite"):
        one.finish()


def test_what_is_taken_on_the_way_is_looked_at_as_well() -> None:
    one = joiner()
    one.push(np.full((1, 1 << 20), np.nan, np.float32), SAMPLE_RATE)
    with pytest.raises(UnsupportedAudioError, match="samples are NaN or infinite"):
        one.take()
