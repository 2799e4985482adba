"""decode_audio and time stamps: every sound is where the container says, and what was filled in is said."""

import numpy as np
import pytest

from tests.audio_clips import FloatArray, encode, encode_vbr_mp3, encode_with_times, sweep
from twostage_asr.engine.audio.decode import SAMPLE_RATE, decode_audio
from twostage_asr.engine.audio.notes import Notes
from twostage_asr.engine.errors import UnsupportedAudioError

# container, codec, sample rate: all that keep a time stamp for each packet, or page
TIMED = [
    ("mp4", "aac", 44_100), ("mp4", "alac", 44_100), ("matroska", "aac", 44_100), ("matroska", "pcm_s16le", 16_000),
    ("webm", "libopus", 48_000), ("mpegts", "mp2", 44_100), ("mpeg", "mp2", 44_100), ("flv", "libmp3lame", 44_100),
]  # fmt: skip
WITHOUT_VIDEO = [("ogg", "libopus", 48_000), ("3gp", "libopencore_amrnb", 8_000)]
CLICKS_S = (0.5, 1.5, 4.5, 5.5)


def clicks(sample_rate: int, duration_s: float = 6.0) -> FloatArray:
    """Bursts of 30 ms at CLICKS_S: where they are heard shows the times of everything."""
    samples = np.zeros(round(duration_s * sample_rate), np.float32)
    burst = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(0.03 * sample_rate)) / sample_rate)
    for at in CLICKS_S:
        start = round(at * sample_rate)
        samples[start : start + len(burst)] = burst
    return samples


def heard_at(waveform: FloatArray) -> list[float]:
    """When bursts begin, s."""
    loud = np.abs(waveform) > 0.15
    places = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]])) / SAMPLE_RATE
    return [float(place) for i, place in enumerate(places) if not i or place - places[i - 1] > 0.2]


def decode(content: bytes, **options: object) -> tuple[FloatArray, dict[str, str]]:
    """The waveform and the warnings by their codes."""
    notes = Notes()
    waveform = decode_audio(content, notes=notes, **options)  # type: ignore[arg-type]
    return waveform, {warning.code: warning.message for warning in notes.warnings()}


@pytest.mark.parametrize(("container", "codec", "rate"), TIMED + WITHOUT_VIDEO)
@pytest.mark.parametrize("gap", [(2.0, 4.0), (2.0, 2.3)])
def test_missing_packets_are_silence(container: str, codec: str, rate: int, gap: tuple[float, float]) -> None:
    waveform, warnings = decode(encode_with_times(clicks(rate), rate, container, codec, gaps=[gap]))
    assert heard_at(waveform) == pytest.approx(CLICKS_S, abs=0.06)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(6.0, abs=0.1)
    assert list(warnings) == ["filled_gap"]
    assert _span(warnings["filled_gap"]) == pytest.approx(gap, abs=0.13)  # a packet is as long as 0.06 s


def _span(message: str) -> tuple[float, float]:
    start, _, end, *_ = message.partition(" at ")[2].split()
    return float(start), float(end)


@pytest.mark.parametrize(("container", "codec", "rate"), TIMED)
def test_audio_that_begins_after_the_video_begins_late(container: str, codec: str, rate: int) -> None:
    content = encode_with_times(clicks(rate), rate, container, codec, delay_s=3.0, has_video=True, gaps=[(2.0, 4.0)])
    waveform, warnings = decode(content)
    assert heard_at(waveform) == pytest.approx([3.0 + at for at in CLICKS_S], abs=0.06)
    assert warnings["filled_gap"].startswith("the file has no audio at 0.00 to ")


@pytest.mark.parametrize(("container", "codec", "rate"), TIMED)
def test_a_clock_that_does_not_begin_at_zero_shifts_nothing(container: str, codec: str, rate: int) -> None:
    waveform, warnings = decode(encode_with_times(clicks(rate), rate, container, codec, delay_s=100.0))
    assert heard_at(waveform) == pytest.approx(CLICKS_S, abs=0.06)
    assert not warnings


def test_samples_that_the_encoder_put_first_shift_nothing() -> None:
    for container, codec in [("mp4", "aac"), ("ogg", "libopus"), ("webm", "libopus"), ("mov", "aac")]:
        waveform, warnings = decode(encode(clicks(48_000), 48_000, container, codec))
        assert heard_at(waveform) == pytest.approx(CLICKS_S, abs=0.005), container
        assert not warnings
    waveform, warnings = decode(encode_vbr_mp3(clicks(44_100), 44_100, with_length=True))
    assert heard_at(waveform) == pytest.approx(CLICKS_S, abs=0.005)
    assert not warnings


def test_jitter_is_no_gap() -> None:
    """Time stamps that are 20 ms late now and then."""
    jumps = [(at, by) for i in range(10) for at, by in ((0.1 + i / 2, 0.02), (0.3 + i / 2, -0.02))]
    waveform, warnings = decode(encode_with_times(clicks(48_000), 48_000, "matroska", "pcm_s16le", jumps=jumps))
    assert heard_at(waveform) == pytest.approx(CLICKS_S, abs=0.005)
    assert not warnings


def test_time_that_runs_away_slowly_is_followed() -> None:
    """A clock that gains 1 ms in 20 adds 0.3 s to 6 s, in steps that are gaps when they add up."""
    jumps = [(0.02 * i, 0.001) for i in range(300)]
    waveform, warnings = decode(encode_with_times(clicks(48_000), 48_000, "matroska", "pcm_s16le", jumps=jumps))
    assert heard_at(waveform) == pytest.approx([1.05 * at for at in CLICKS_S], abs=0.06)
    assert "and " in warnings["filled_gap"] or warnings["filled_gap"].count(" to ") > 4


@pytest.mark.parametrize(("back_s", "told"), [(0.5, "overlap by up to 0.50 s from 3.00 s"), (3.0, "jump by -3.00 s")])
def test_no_sound_is_lost_where_the_clock_goes_back(back_s: float, told: str) -> None:
    samples = clicks(48_000)
    halves = [(samples[: 3 * 48_000], 5.0), (samples[3 * 48_000 :], 8.0 - back_s)]
    content = b"".join(encode_with_times(half, 48_000, "mpegts", "mp2", delay_s=at) for half, at in halves)
    waveform, warnings = decode(content)
    assert heard_at(waveform) == pytest.approx(CLICKS_S, abs=0.03)
    assert list(warnings) == ["joined_times"] and told in warnings["joined_times"]


@pytest.mark.parametrize(("container", "jump_s"), [("mpegts", 300.0), ("matroska", 50_000.0)])
def test_a_new_clock_is_no_gap(container: str, jump_s: float) -> None:
    """Broadcasts set theirs anew; elsewhere, a gap longer than any recording that is allowed cannot be meant."""
    codec = "mp2" if container == "mpegts" else "pcm_s16le"
    options = {"live": "1"} if container == "matroska" else {}  # no length in the header
    content = encode_with_times(clicks(48_000), 48_000, container, codec, jumps=[(3.0, jump_s)], options=options)
    waveform, warnings = decode(content)
    assert heard_at(waveform) == pytest.approx(CLICKS_S, abs=0.03)
    assert list(warnings) == ["joined_times"] and f"jump by +{jump_s:,.2f} s at 3.0" in warnings["joined_times"]


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "aac"), ("webm", "libopus")])
def test_truncation_is_an_error_in_spite_of_gaps(container: str, codec: str) -> None:
    content = encode_with_times(clicks(48_000), 48_000, container, codec, gaps=[(2.0, 3.0)])
    with pytest.raises(UnsupportedAudioError):
        decode_audio(content[: len(content) * 8 // 10])


def test_damage_is_no_gap() -> None:
    """Packets that are there and do not decode: silence keeps the times, but it is an error beyond the tolerance."""
    content = bytearray(encode_with_times(sweep(6.0, 44_100), 44_100, "mp4", "aac"))
    middle = len(content) // 2
    noise = np.random.default_rng(0).bytes(9_000)
    content[middle : middle + 9_000] = noise
    with pytest.raises(UnsupportedAudioError, match="truncated or damaged"):
        decode_audio(bytes(content))
    waveform, warnings = decode(bytes(content), salvage=True)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(6.0, abs=0.1)
    assert "could not be decoded" in warnings["missing_audio"] and "filled_gap" not in warnings


@pytest.mark.parametrize(("container", "codec"), [("ogg", "libopus"), ("webm", "libopus")])
def test_pages_that_are_overwritten_are_no_gap(container: str, codec: str) -> None:
    content = bytearray(encode_with_times(sweep(30.0, 48_000), 48_000, container, codec))
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    with pytest.raises(UnsupportedAudioError, match="truncated or damaged"):
        decode_audio(bytes(content))


def test_a_video_that_ends_too_early_is_told() -> None:
    content = encode_with_times(clicks(44_100), 44_100, "matroska", "aac", has_video=True)
    assert not decode(content)[1]
    _, warnings = decode(content[: len(content) * 6 // 10])
    assert "before the time that its header says" in warnings["missing_audio"]


def test_an_ogg_whose_clock_jumps_within_its_first_page_is_whole() -> None:
    """As ffmpeg records from PulseAudio: FFmpeg reads the file as one that begins late, and adds that to its length."""
    content = encode_with_times(sweep(5.0, 48_000), 48_000, "ogg", "libopus", jumps=[(0.3, 0.5)])
    waveform, warnings = decode(content)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(5.0, abs=0.05) and not warnings
