"""Batches of index arrays -> waveforms -> features, on the training device: cutting, mixing, augmentation.

Nothing here waits for a GPU: what decides shapes is known on the CPU, and copies start from pinned memory. So the CPU
launches the next kernels while the GPU is still busy with these.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from twostage_asr.encoders import upload
from twostage_asr.encoders.fbank import NUM_MELS, log_mel_fbank, stack_frames

from .batches import Batch

_SIZE_STEP = 4_800  # samples; padded lengths are multiples of it, for which FFTs are fast
_INT16_SCALE = 32_768.0
_EQ_POINTS = 10
_ECHO_SAMPLES = 9_600
_NYQUIST_HZ = 8_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Shares of clips that are changed in each way."""

    noise: float = 0.62
    babble: float = 0.08
    equaliser: float = 0.55
    telephone: float = 0.25
    coded: float = 0.5  # of those with the band of a telephone
    rooms: float = 0.35
    mel_warp: float = 0.6
    masks: float = 0.5
    dither: float = 0.5


NO_AUGMENTATION = Augmentation(noise=0, babble=0, equaliser=0, telephone=0, rooms=0, mel_warp=0, masks=0, dither=0)


def to_device(batch: Batch, device: torch.device) -> Mapping[str, Tensor]:
    """The batch's arrays as tensors by name; lengths stay on the CPU."""
    tensors = {field.name: torch.from_numpy(getattr(batch, field.name)) for field in fields(batch)}
    tensors["num_segment_samples"] = tensors["segment_lengths"].sum()
    on_cpu = {"sample_lens", "ctc_lens", "num_segment_samples"}
    return {name: tensor if name in on_cpu else upload.to_device(tensor, device) for name, tensor in tensors.items()}


class Composer:
    """Cuts clips from the corpus and changes them at random."""

    def __init__(self, audio: Tensor, *, seed: int) -> None:
        """`audio`: (N,) int16 on the training device."""
        self._audio = audio
        self._random = torch.Generator(audio.device).manual_seed(seed)
        self._cpu_random = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def features(self, batch: Mapping[str, Tensor], augmentation: Augmentation) -> tuple[Tensor, Tensor]:
        """LFR features (B, T, 560) and lens (B,), both on the training device."""
        sample_lens = batch["sample_lens"]
        waveforms = self.waveforms(batch, augmentation)
        dither = float(torch.rand((), generator=self._cpu_random) < augmentation.dither)
        fbank, fbank_lens = log_mel_fbank(waveforms, sample_lens, dither=dither)
        fbank = self._mask(self._warp(fbank, augmentation.mel_warp), fbank_lens, augmentation.masks)
        return stack_frames(fbank, fbank_lens)

    @torch.no_grad()
    def waveforms(self, batch: Mapping[str, Tensor], augmentation: Augmentation) -> Tensor:
        """Clips (B, N) in -1..1 on the training device, zero beyond each one's own samples."""
        return self._change(self._cut(batch), batch, augmentation)

    def _uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=self._random, device=self._audio.device) * (high - low) + low

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random, device=self._audio.device)

    def _cut(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The corpus' samples at the clips' places, resampled by each segment's speed: (B, N) float32."""
        num_clips, device = len(batch["sample_lens"]), self._audio.device
        size = -(-int(batch["sample_lens"].max()) // _SIZE_STEP) * _SIZE_STEP
        out = torch.zeros(num_clips * size, device=device)
        lengths = batch["segment_lengths"]
        if not len(lengths):
            return out.view(num_clips, size)
        ends = lengths.cumsum(0)
        total = int(batch["num_segment_samples"])
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths, output_size=total)
        local = torch.arange(total, device=device) - (ends - lengths)[owner]
        position = local * batch["segment_speeds"][owner]
        whole = position.floor()
        source = batch["segment_sources"][owner] + whole.long()
        here = self._audio[source].float()
        there = self._audio[(source + 1).clamp_(max=len(self._audio) - 1)].float()
        gain = batch["segment_levels"] / _INT16_SCALE
        place = (batch["segment_rows"] * size + batch["segment_starts"])[owner] + local
        out[place] = torch.lerp(here, there, position - whole) * gain[owner]
        return out.view(num_clips, size)

    def _change(self, clean: Tensor, batch: Mapping[str, Tensor], augmentation: Augmentation) -> Tensor:
        """Equaliser, noise, babble, telephone band, level, 16-bit rounding."""
        num_clips, size = clean.shape
        is_sounding = clean != 0
        power = clean.square().sum(1) / is_sounding.sum(1).clamp(min=1)
        is_empty = power == 0
        power = torch.where(is_empty, 1.0, power)
        spectrum = torch.fft.rfft(self._add_babble(clean, power, augmentation.babble))
        bands = spectrum.shape[1]
        spectrum *= self._equaliser(num_clips, bands, augmentation.equaliser)
        spectrum *= self._rooms(num_clips, size, augmentation.rooms)
        noise = self._noise(num_clips, bands)
        level = 2 * noise.abs().square().sum(1) / size**2  # Parseval: power in time
        snr_db = self._uniform(num_clips, low=2.0, high=36.0)
        wanted = power * 10 ** (-snr_db / 10) * (self._uniform(num_clips) < augmentation.noise)
        spectrum += noise * (wanted / level).sqrt()[:, None]
        has_band = self._uniform(num_clips, 1) < augmentation.telephone
        spectrum *= torch.where(has_band, self._telephone(num_clips, bands), 1.0)
        is_coded = has_band & (self._uniform(num_clips, 1) < augmentation.coded)
        mixed = _coded(torch.fft.irfft(spectrum, n=size), is_coded)
        sample_lens = upload.to_device(batch["sample_lens"], mixed.device)
        mixed = mixed.masked_fill_(torch.arange(size, device=mixed.device) >= sample_lens[:, None], 0.0)
        peak = 10 ** (self._uniform(num_clips, low=-32.0, high=-0.5) / 20)
        gain = peak / mixed.abs().amax(1).clamp(min=1e-4)
        return (mixed * gain[:, None] * _INT16_SCALE).round_().clamp_(-_INT16_SCALE, _INT16_SCALE - 1) / _INT16_SCALE

    def _add_babble(self, clean: Tensor, power: Tensor, share: float) -> Tensor:
        """Other clips of the batch, five at once, under some."""
        if not share or len(clean) < 8:
            return clean
        babble = sum((clean.roll(shift, 0) for shift in (2, 3, 4, 5)), clean.roll(1, 0))
        level = babble.square().mean(1).clamp(min=1e-9)
        snr_db = self._uniform(len(clean), low=8.0, high=30.0)
        gain = (power / level * 10 ** (-snr_db / 10)).sqrt() * (self._uniform(len(clean)) < share)
        return clean + babble * gain[:, None]

    def _equaliser(self, num_clips: int, bands: int, share: float) -> Tensor:
        """(B, bands) smooth random gains."""
        gains_db = 5.0 * self._normal(num_clips, _EQ_POINTS) * (self._uniform(num_clips, 1) < share)
        return torch.pow(10.0, gains_db @ _eq_weights(bands, gains_db.device) / 20)

    def _noise(self, num_clips: int, bands: int) -> Tensor:
        """(B, bands) complex: white to brown noise, or one band, or both."""
        hz = torch.linspace(0, _NYQUIST_HZ, bands, device=self._audio.device)
        slope = self._uniform(num_clips, 1, low=-0.3, high=2.2)
        tilted = (hz.clamp(min=40.0) / 1000.0) ** (-slope / 2)
        centre = torch.exp(self._uniform(num_clips, 1, low=math.log(150.0), high=math.log(6000.0)))
        width = self._uniform(num_clips, 1, low=0.2, high=1.2)
        band = torch.exp(-((hz.clamp(min=1.0) / centre).log() / width).square())
        shape = torch.where(self._uniform(num_clips, 1) < 0.25, band + 1e-3, tilted)
        return torch.complex(self._normal(num_clips, bands) * shape, self._normal(num_clips, bands) * shape)

    def _rooms(self, num_clips: int, size: int, share: float) -> Tensor:
        """(B, bands) complex: of some clips, a room's response: the direct sound, then noise that dies away."""
        length = min(size, _ECHO_SAMPLES)
        time_s = torch.arange(length, device=self._audio.device) / 16_000
        reverberation_s = self._uniform(num_clips, 1, low=0.1, high=0.6)  # until it is 60 dB weaker
        echo = self._normal(num_clips, length) * torch.pow(10.0, -3 * time_s / reverberation_s)
        echo = torch.where(time_s >= self._uniform(num_clips, 1, low=0.001, high=0.02), echo, 0.0)
        ratio_db = self._uniform(num_clips, 1, low=-3.0, high=15.0)  # of the direct sound to the rest
        power = echo.square().sum(1, keepdim=True).clamp(min=1e-9)
        echo = echo * (10 ** (-ratio_db / 10) / power).sqrt() * (self._uniform(num_clips, 1) < share)
        echo[:, 0] += 1.0
        return torch.fft.rfft(echo, n=size)

    def _telephone(self, num_clips: int, bands: int) -> Tensor:
        """(B, bands) gains: about 300 to 3400 Hz."""
        hz = torch.linspace(0, _NYQUIST_HZ, bands, device=self._audio.device)
        low = self._uniform(num_clips, 1, low=50.0, high=400.0)
        high = self._uniform(num_clips, 1, low=3000.0, high=4000.0)
        return torch.sigmoid((hz - low) / 15.0) * torch.sigmoid((high - hz) / 15.0)

    def _warp(self, fbank: Tensor, share: float) -> Tensor:
        """Stretch or squeeze the mel axis of some clips, as a longer or shorter vocal tract would."""
        if not share:
            return fbank
        num_clips, device = len(fbank), fbank.device
        factor = torch.where(self._uniform(num_clips, 1) < share, self._uniform(num_clips, 1, low=0.87, high=1.14), 1.0)
        mels = torch.arange(NUM_MELS, device=device)
        knee = 0.75 * NUM_MELS  # the upper quarter leads back to the last bin
        slope = (NUM_MELS - 1 - knee * factor) / (NUM_MELS - 1 - knee)
        position = torch.where(mels < knee, mels * factor, knee * factor + (mels - knee) * slope)
        position = position.clamp(0, NUM_MELS - 1)
        lower = position.floor()
        weight = (position - lower)[:, None, :]
        index = lower.long()[:, None, :].expand(-1, fbank.shape[1], -1)
        return torch.lerp(fbank.gather(2, index), fbank.gather(2, (index + 1).clamp(max=NUM_MELS - 1)), weight)

    def _mask(self, fbank: Tensor, lens: Tensor, share: float) -> Tensor:
        """Light SpecAugment: up to two bands of 10 bins and, in each 2 s, one gap of 80 ms, filled with the mean."""
        if not share:
            return fbank
        num_clips, num_frames = fbank.shape[:2]
        mels = torch.arange(NUM_MELS, device=fbank.device)
        frames = torch.arange(num_frames, device=fbank.device)
        chosen = self._uniform(num_clips, 1) < share
        hidden = torch.zeros_like(fbank, dtype=torch.bool)
        for _ in range(2):
            start = self._uniform(num_clips, 1, high=NUM_MELS)
            width = self._uniform(num_clips, 1, high=10.0) * chosen
            hidden |= ((mels >= start) & (mels < start + width))[:, None, :]
        period = 200
        offset = self._uniform(num_clips, 1, high=period)
        width = self._uniform(num_clips, 1, high=8.0) * (self._uniform(num_clips, 1) < share)
        hidden |= ((frames + offset) % period < width)[:, :, None]
        mean = fbank.sum((1, 2)) / (lens * NUM_MELS)
        return torch.where(hidden, mean[:, None, None], fbank)


def _coded(waveforms: Tensor, is_coded: Tensor) -> Tensor:
    """The chosen ones of (B, N) waveforms as 8 kHz samples of 8 bits in mu-law (G.711), and back at 16 kHz."""
    size = waveforms.shape[1]
    narrow = waveforms[:, ::2]
    peak = narrow.abs().amax(1, keepdim=True).clamp(min=1e-6)
    code = torch.round(127 * torch.log1p(255 * (narrow / peak).abs()) / math.log(256.0))
    decoded = narrow.sign() * torch.expm1(code / 127 * math.log(256.0)) / 255 * peak
    return torch.where(is_coded, 2 * torch.fft.irfft(torch.fft.rfft(decoded), n=size), waveforms)


@lru_cache(maxsize=256)
def _eq_weights(bands: int, device: torch.device) -> Tensor:
    """(_EQ_POINTS, bands): linear interpolation between points equally spaced on a logarithmic frequency axis."""
    hz = torch.linspace(0, _NYQUIST_HZ, bands)
    place = (hz.clamp(min=60.0) / 60.0).log() / math.log(_NYQUIST_HZ / 60.0) * (_EQ_POINTS - 1)
    points = torch.arange(_EQ_POINTS)[:, None]
    return (1 - (place - points).abs()).clamp(min=0.0).to(device)
