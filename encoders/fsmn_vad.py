"""FunASR's fsmn-vad: a small causal network that tells silence from sounds of speech, frame by frame.

Normalised LFR features (T, input_dim) float32 -> probabilities (T, output_dim), one frame per 10 ms. In each layer a
frame depends on the lorder - 1 frames before it and on none after it. The layout of the weights is FunASR's `FSMN`,
without the prefix `encoder.`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class FsmnVADConfig:
    """Sizes of the network, by FunASR's names. Raises ValueError for one below 1."""

    input_dim: int
    input_affine_dim: int
    fsmn_layers: int
    linear_dim: int
    proj_dim: int
    lorder: int  # frames that a memory sums over, including the present one
    lstride: int  # frames from one of them to the next
    output_affine_dim: int
    output_dim: int

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def memory_frames(self) -> int:
        """Frames before the present one that a layer needs."""
        return (self.lorder - 1) * self.lstride


class FsmnVADEncoder(nn.Module):
    """The whole network."""

    def __init__(self, config: FsmnVADConfig) -> None:
        super().__init__()
        self.config = config
        self.in_linear1 = _Affine(config.input_dim, config.input_affine_dim)
        self.in_linear2 = _Affine(config.input_affine_dim, config.linear_dim)
        self.fsmn = nn.ModuleList([_Layer(config) for _ in range(config.fsmn_layers)])
        self.out_linear1 = _Affine(config.linear_dim, config.output_affine_dim)
        self.out_linear2 = _Affine(config.output_affine_dim, config.output_dim)

    def new_memory(self) -> list[Tensor]:
        """The memory at the start of a stream: zeros (memory_frames, proj_dim) for each layer."""
        config = self.config
        return [torch.zeros(config.memory_frames, config.proj_dim) for _ in range(config.fsmn_layers)]

    def forward(self, features: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(T, input_dim) -> (T, output_dim), whose rows sum to 1, and the memory for the next frames."""
        x = F.relu(self.in_linear2(self.in_linear1(features)))
        following = []
        for layer, before in zip(self.fsmn, memory, strict=True):
            x, after = layer(x, before)
            following.append(after)
        probabilities: Tensor = self.out_linear2(self.out_linear1(x)).softmax(-1)
        return probabilities, following


class _Affine(nn.Module):
    """A linear layer whose parameters have the checkpoint's keys, `linear.*`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


class _Memory(nn.Module):
    """x plus, for each channel, a weighted sum over its past frames."""

    def __init__(self, config: FsmnVADConfig) -> None:
        super().__init__()
        channels = config.proj_dim
        self._stride = config.lstride
        self.conv_left = nn.Conv2d(
            channels, channels, (config.lorder, 1), dilation=(config.lstride, 1), groups=channels, bias=False
        )

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.cat([before, x])
        frames = known.unfold(0, len(before) + 1, 1)[..., :: self._stride]  # (T, channels, lorder)
        # A convolution takes five times as long for a few frames.
        past = (frames * self.conv_left.weight[:, 0, :, 0]).sum(-1)
        return x + past, known[len(known) - len(before) :]


class _Layer(nn.Module):
    def __init__(self, config: FsmnVADConfig) -> None:
        super().__init__()
        self.linear = _Affine(config.linear_dim, config.proj_dim, bias=False)
        self.fsmn_block = _Memory(config)
        self.affine = _Affine(config.proj_dim, config.linear_dim)

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        remembered, after = self.fsmn_block(self.linear(x), before)
        return F.relu(self.affine(remembered)), after
