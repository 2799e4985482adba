"""Channels: their mean, unless they cancel each other; one of them; each by itself."""

import numpy as np
import pytest

from tests.audio_clips import EXACT, FloatArray, assert_is_sweep, encode, flac_with_total, sweep
from twostage_asr.engine.audio.channels import Channels, check_channels
from twostage_asr.engine.audio.decode import SAMPLE_RATE, AudioLimits, as_waveform, decode_audio, decode_blocks
from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.audio.notes import Notes
from twostage_asr.engine.errors import AudioTooLongError, ConfigError, UnsupportedAudioError

SWEEP = sweep(2.0, 16_000)
OTHER = SWEEP[::-1].copy()
WAYS = [("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("matroska", "flac")]


def decode(content: bytes, **options: Channels) -> tuple[FloatArray, dict[str, str]]:
    notes = Notes()
    waveform = decode_audio(content, notes=notes, **options)  # type: ignore[arg-type]
    return waveform, {warning.code: warning.message for warning in notes.warnings()}


@pytest.mark.parametrize(("container", "codec"), WAYS)
@pytest.mark.parametrize("right", [-1.0, -0.9, -1.1])
def test_channels_that_cancel_are_not_mixed(container: str, codec: str, right: float) -> None:
    stereo = np.stack([SWEEP, np.float32(right) * SWEEP])
    waveform, warnings = decode(encode(stereo, 16_000, container, codec))
    loudest = SWEEP if abs(right) <= 1 else np.float32(right) * SWEEP
    assert np.linalg.norm(waveform[: len(SWEEP)] - loudest) < 0.02 * np.linalg.norm(SWEEP)
    channel = 0 if abs(right) <= 1 else 1
    assert warnings == {
        "louder_channel": f"the channels cancel each other at 0.00 to 2.00 s; channel {channel} alone was heard there"
    }


@pytest.mark.parametrize("right", [SWEEP, 0 * SWEEP, OTHER, -0.3 * SWEEP])
def test_channels_that_do_not_cancel_are_mixed(right: FloatArray) -> None:
    waveform, warnings = decode(encode(np.stack([SWEEP, right]), 16_000, "WAV", "FLOAT"))
    assert np.allclose(waveform, (SWEEP + right) / 2, atol=1e-6) and not warnings


def test_one_speaker_in_six_channels_is_mixed() -> None:
    channels = np.zeros((6, len(SWEEP)), np.float32)
    channels[2] = SWEEP
    waveform, warnings = decode(encode(channels, 16_000, "WAV", "FLOAT"))
    assert np.allclose(waveform, SWEEP / 6, atol=1e-6) and not warnings


def test_only_where_they_cancel() -> None:
    """The right channel is inverted for the middle third of 200 s."""
    left = (0.1 * np.random.default_rng(0).standard_normal(200 * 16_000)).astype(np.float32)
    signs = np.ones(len(left), np.float32)
    signs[len(left) // 3 : 2 * len(left) // 3] = -1
    waveform, warnings = decode(encode(np.stack([left, signs * left]), 16_000, "WAV", "FLOAT"))
    assert np.allclose(waveform[:16_000], left[:16_000]) and np.allclose(waveform[-16_000:], left[-16_000:])
    assert "channel 0 alone" in warnings["louder_channel"]


def test_arrays_are_treated_alike() -> None:
    notes = Notes()
    assert np.array_equal(as_waveform(np.stack([SWEEP, -SWEEP]), 16_000, notes=notes), SWEEP)
    assert [warning.code for warning in notes.warnings()] == ["louder_channel"]


@pytest.mark.parametrize(("container", "codec"), WAYS)
def test_one_channel_can_be_picked(container: str, codec: str) -> None:
    content = encode(np.stack([0.5 * OTHER, SWEEP]), 16_000, container, codec)
    max_error = 0.02 if codec == "PCM_U8" else EXACT[0]
    assert_is_sweep(decode(content, channels=1)[0], max_error=max_error)
    with pytest.raises(UnsupportedAudioError, match="has no channel 2; it has 0 to 1"):
        decode_audio(content, channels=2)
    with pytest.raises(UnsupportedAudioError, match="has no channel 1; it has 0"):
        decode_audio(encode(SWEEP, 16_000, container, codec), channels=1)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_split_channels_are_what_each_is_by_itself(rate: int) -> None:
    left, right = sweep(70.0, rate), 0.5 * sweep(70.0, rate)[::-1]
    content = encode(np.stack([left, right]), rate, "FLAC", "PCM_16")
    split = decode_audio(content, channels="split")
    assert split.shape == (70 * SAMPLE_RATE, 2)
    for channel in (0, 1):
        assert np.allclose(split[:, channel], decode_audio(content, channels=channel), atol=1e-6)
    blocks = list(decode_blocks(content, channels="split"))
    assert len(blocks) > 1 and np.array_equal(np.concatenate(blocks), split)


def test_an_input_says_for_itself() -> None:
    samples = np.stack([SWEEP, OTHER])
    assert np.array_equal(load(AudioInput(key="a", source=samples, channels=1)), OTHER)
    assert np.array_equal(load(AudioInput(key="a", source=samples, channels=0)), SWEEP)
    assert load(AudioInput(key="a", source=samples, channels="split")).shape == (len(SWEEP), 2)


@pytest.mark.parametrize("channels", ["left", "", -1, True, 1.0, None, [0]])
def test_what_is_no_choice_of_channels(channels: object) -> None:
    with pytest.raises(ConfigError, match='"mix", "split" or'):
        check_channels(channels)


def test_samples_of_all_channels_count() -> None:
    """An hour of 8 channels costs as much as 8 hours of one; refused by what the header says, and while decoding."""
    stereo = np.stack([SWEEP] * 8)
    flac = encode(stereo, 16_000, "FLAC", "PCM_16")
    for content in (flac, flac_with_total(flac, 0), encode(stereo, 16_000, "WAV", "PCM_16")):
        assert len(decode_audio(content, limits=AudioLimits(max_samples=8 * 33_000)))
        with pytest.raises(AudioTooLongError, match="samples of all channels"):
            decode_audio(content, limits=AudioLimits(max_samples=8 * 31_000))


def test_work_is_limited() -> None:
    content = encode(sweep(60.0, 48_000), 48_000, "FLAC", "PCM_16")
    with pytest.raises(AudioTooLongError, match=r"takes more than 0\.001 s of a processor to decode"):
        decode_audio(content, limits=AudioLimits(max_cpu_s=0.001))
