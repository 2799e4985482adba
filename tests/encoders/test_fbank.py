"""Features equal Kaldi's, whatever a clip's length, padding and neighbours."""

import math

import pytest
import torch
import torchaudio.compliance.kaldi as kaldi
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.recorded_graphs import Operations
from twostage_asr.encoders import fbank as fbank_module
from twostage_asr.encoders.fbank import (
    fbank_frame_lens,
    graph_fbank,
    lfr_frame_lens,
    log_mel_fbank,
    num_fbank_frames,
    num_lfr_frames,
    stack_frames,
)


def noise(num_samples: int, *, amplitude: float = 0.1, seed: int = 0) -> Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * amplitude


def pad(clips: list[Tensor], value: float, extra: int = 0) -> tuple[Tensor, Tensor]:
    lens = torch.tensor([len(clip) for clip in clips])
    batch = torch.full((len(clips), int(lens.max()) + extra), value)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return batch, lens


def fbank_of(clip: Tensor) -> Tensor:
    return log_mel_fbank(clip[None], torch.tensor([len(clip)]))[0][0]


def kaldi_fbank(clip: Tensor) -> Tensor:
    return kaldi.fbank(
        clip[None] * 32_768,
        num_mel_bins=80,
        frame_length=min(25.0, len(clip) / 16),
        frame_shift=10.0,
        dither=0.0,
        energy_floor=0.0,
        window_type="hamming",
        sample_frequency=16_000,
    )


@settings(max_examples=60)
@given(
    num_samples=st.one_of(st.integers(2, 399), st.integers(400, 6000)),
    amplitude=st.sampled_from([1e-4, 1e-2, 0.3]),
    seed=st.integers(0, 1000),
)
def test_fbank_equals_kaldi(num_samples: int, amplitude: float, seed: int) -> None:
    clip = noise(num_samples, amplitude=amplitude, seed=seed)
    torch.testing.assert_close(fbank_of(clip), kaldi_fbank(clip), atol=2e-3, rtol=0)


@pytest.mark.parametrize("num_samples", [2, 3, 17, 128, 129, 256, 257, 399, 400])
def test_fbank_equals_kaldi_where_the_fft_size_changes(num_samples: int) -> None:
    clip = noise(num_samples)
    torch.testing.assert_close(fbank_of(clip), kaldi_fbank(clip), atol=2e-3, rtol=0)


@settings(max_examples=30)
@given(lens=st.lists(st.integers(2, 3000), min_size=1, max_size=6), extra=st.integers(0, 700))
def test_padding_and_neighbours_change_nothing(lens: list[int], extra: int) -> None:
    clips = [noise(n, seed=seed) for seed, n in enumerate(lens)]
    batch, sample_lens = pad(clips, float("nan"), extra)
    fbank, fbank_lens = log_mel_fbank(batch, sample_lens)
    features, feature_lens = stack_frames(fbank, fbank_lens)
    for row, length, lfr_row, lfr_length, clip in zip(fbank, fbank_lens, features, feature_lens, clips, strict=True):
        single, single_lens = log_mel_fbank(clip[None], torch.tensor([len(clip)]))
        assert length == single_lens[0] == num_fbank_frames(len(clip))
        torch.testing.assert_close(row[:length], single[0], atol=1e-5, rtol=0)
        assert not row[length:].any()
        lfr_single, lfr_single_lens = stack_frames(single, single_lens)
        assert lfr_length == lfr_single_lens[0] == num_lfr_frames(len(clip)) == len(lfr_single[0])
        torch.testing.assert_close(lfr_row[:lfr_length], lfr_single[0], atol=1e-5, rtol=0)
        assert not lfr_row[lfr_length:].any()


def test_working_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, lens = pad([noise(9000), noise(5000), noise(700)], 0.0)
    whole, _ = log_mel_fbank(batch, lens)
    monkeypatch.setattr(fbank_module, "_MAX_FRAMES_AT_ONCE", 7)
    torch.testing.assert_close(log_mel_fbank(batch, lens)[0], whole, atol=1e-5, rtol=0)


def test_digital_silence_is_the_floor() -> None:
    floor = math.log(torch.finfo(torch.float32).eps)
    torch.testing.assert_close(fbank_of(torch.zeros(1600)), torch.full((8, 80), floor))


def test_dither_is_noise_in_16_bit_steps() -> None:
    silence, lens = torch.zeros(1, 160_000), torch.tensor([160_000])
    torch.manual_seed(0)
    dithered, _ = log_mel_fbank(silence, lens, dither=1.0)
    # The same noise, from outside: independent samples of standard deviation 1 / 32768.
    noisy, _ = log_mel_fbank(torch.randn(1, 160_000) / 32_768, lens)
    torch.testing.assert_close(dithered.mean((0, 1)), noisy.mean((0, 1)), atol=0.2, rtol=0)


def test_the_waveforms_are_left_as_they_are() -> None:
    batch, lens = pad([noise(2000), noise(300)], 0.5)
    before = batch.clone()
    log_mel_fbank(batch, lens, dither=1.0)
    assert torch.equal(batch, before)


def test_a_table_made_in_inference_mode_serves_every_mode() -> None:
    cpu = torch.device("cpu")
    with torch.inference_mode():
        for make in (fbank_module._hamming, fbank_module._mel_filters, fbank_module._fourier):
            assert not make.__wrapped__(256, cpu).is_inference()  # not cached: a CUDA graph may use the tables there


@settings(max_examples=20)
@given(
    lens=st.lists(st.integers(400, 5000), min_size=1, max_size=4),
    amplitude=st.sampled_from([1e-4, 1e-2, 0.3]),
    offset=st.sampled_from([0.0, 0.2]),
)
def test_features_of_a_graph_are_those_of_an_fft(lens: list[int], amplitude: float, offset: float) -> None:
    batch, sample_lens = pad([noise(n, amplitude=amplitude, seed=n) + offset for n in lens], float("nan"), 300)
    expected, expected_lens = log_mel_fbank(batch, sample_lens)
    fbank, fbank_lens = graph_fbank(batch, sample_lens)
    assert torch.equal(fbank_lens, expected_lens)
    errors = (fbank - expected).abs()
    assert errors.mean() < 1e-4 and errors.max() < 0.05  # where a band is empty by chance, its logarithm is not exact


def test_features_of_a_graph_are_as_exact_as_those_of_an_fft() -> None:
    """A loud tone beside almost nothing: the error of a sum shows where the spectrum is weak."""
    t = torch.arange(32_000) / 16_000
    for clip in (0.5 * torch.sin(2 * math.pi * 440 * t), noise(32_000), noise(32_000, amplitude=1e-4)):
        windows = clip.unfold(0, 400, 160)
        exact = fbank_module._log_mel(windows.double(), 0.0, energies=energies_in_double)
        lens = torch.tensor([len(clip)])
        errors = [(f(clip[None], lens)[0][0] - exact).abs().mean() for f in (graph_fbank, log_mel_fbank)]
        assert errors[0] < max(2 * errors[1], torch.tensor(1e-5))


def energies_in_double(samples: Tensor) -> Tensor:
    return torch.fft.rfft(samples, n=512).abs().square() @ fbank_module._mel_filters(512, samples.device).double()


def test_nothing_in_a_graph_is_read_by_the_cpu_or_planned_by_cufft() -> None:
    batch, lens = pad([noise(9000), noise(5000)], 0.0)
    with Operations() as operations:
        stack_frames(*graph_fbank(batch, lens))
    names = {str(function) for function, *_ in operations.calls}
    assert not {name for name in names if "fft" in name or "_local_scalar_dense" in name or "nonzero" in name}


@pytest.mark.parametrize("precision", ["none", "ieee", "tf32"])
def test_features_are_computed_without_tf32_and_leave_the_programs_choice(precision: str) -> None:
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    try:
        with fbank_module._without_tf32():
            assert matmul.fp32_precision != "tf32"
        assert matmul.fp32_precision == precision
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize(
    ("seconds", "frames", "lfr_frames"),
    [(1, 98, 17), (2, 198, 33), (3, 298, 50), (5, 498, 83), (10, 998, 167), (30, 2998, 500)],
)
def test_frame_counts(seconds: int, frames: int, lfr_frames: int) -> None:
    assert (num_fbank_frames(seconds * 16_000), num_lfr_frames(seconds * 16_000)) == (frames, lfr_frames)


def test_frame_counts_of_tensors_are_those_of_numbers() -> None:
    lens = torch.arange(2, 20_000)
    fbank_lens = fbank_frame_lens(lens)
    assert fbank_lens.tolist() == [num_fbank_frames(n) for n in lens.tolist()]
    assert lfr_frame_lens(fbank_lens).tolist() == [num_lfr_frames(n) for n in lens.tolist()]


@settings(max_examples=50)
@given(
    lens=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    lfr_m=st.integers(1, 9),
    lfr_n=st.integers(1, 8),
    extra=st.integers(0, 9),
)
def test_stack_frames_is_its_definition(lens: list[int], lfr_m: int, lfr_n: int, extra: int) -> None:
    num_frames, num_mels = max(lens) + extra, 3
    fbank = torch.randn(len(lens), num_frames, num_mels, generator=torch.Generator().manual_seed(0))
    stacked, stacked_lens = stack_frames(fbank, torch.tensor(lens), lfr_m=lfr_m, lfr_n=lfr_n)
    assert stacked.shape == (len(lens), math.ceil(num_frames / lfr_n), lfr_m * num_mels)
    assert stacked_lens.tolist() == [math.ceil(length / lfr_n) for length in lens]
    for clip, length in enumerate(lens):
        for t, row in enumerate(stacked[clip]):
            frames = [min(max(lfr_n * t - (lfr_m - 1) // 2 + j, 0), length - 1) for j in range(lfr_m)]
            expected = torch.cat([fbank[clip, frame] for frame in frames])
            assert torch.equal(row, expected if t * lfr_n < length else torch.zeros_like(expected))


@pytest.mark.parametrize("lens", [[1], [0], [801], [-5]])
def test_impossible_lengths_are_refused(lens: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must be in 2\.\.800, got"):
        log_mel_fbank(noise(800)[None], torch.tensor(lens))


@pytest.mark.parametrize("waveforms", [torch.zeros(800), torch.zeros(1, 800, dtype=torch.float64)])
def test_other_shapes_and_dtypes_are_refused(waveforms: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, N\) float32"):
        log_mel_fbank(waveforms, torch.tensor([800]))


@pytest.mark.parametrize("count", [num_fbank_frames, num_lfr_frames])
def test_audio_without_a_spectrum_has_no_frames(count: object) -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        count(1)  # type: ignore[operator]
