"""CAM++ for inference: what campplus.py computes, in fewer and cheaper steps.

Each normalisation is folded into the convolution beside it. A normalisation and a rectifier before a convolution of one
frame become one clamp. The channels come last in memory, so that these convolutions are matrix products. The layers of
a dense block write into one buffer, where the module copies all channels once more for each layer. In float16 on an
NVIDIA GPU, campplus_triton.py computes the same in one kernel for each convolution.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .campplus import CONTEXT_FRAMES, HEAD_CHANNELS, CAMPPlus, ContextMask, DenseBlock, Head, ResidualBlock, TimeDelay

Norm = nn.BatchNorm1d | nn.BatchNorm2d
_LEAST_SCALE = 1e-12  # in the place of a scale of zero, which nothing can be divided by


class FoldedCAMPPlus(nn.Module):
    """A trained CAMPPlus, whose weights are constants here. It computes in `dtype`, and pools over time in float32."""

    def __init__(self, trained: CAMPPlus, dtype: torch.dtype) -> None:
        super().__init__()
        parts: Any = trained.xvector
        self.head = _Head(trained.head, dtype)
        self.delay = _joined_bands(parts.tdnn, dtype)
        self.blocks = nn.ModuleList(_DenseLayers(getattr(parts, f"block{number}"), dtype) for number in (1, 2, 3))
        following = (None, None, parts.out_nonlinear.batchnorm)
        self.transits = nn.ModuleList(
            _Rectified(transit.nonlinear.batchnorm, transit.linear, norm, dtype)
            for transit, norm in zip((parts.transit1, parts.transit2, parts.transit3), following, strict=True)
        )
        self.dense = _linear(parts.dense.linear, parts.dense.nonlinear.batchnorm, torch.float32)

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, 80) without its mean over time, T at least 3 -> (B, 192) float32, not normalised."""
        bands: Tensor = self.head(fbank)
        x = self.delay(bands).relu_().permute(0, 2, 3, 1)[:, 0]  # (B, 128, 1, T / 2) -> (B, T / 2, 128)
        for layers, transit in zip(self.blocks, self.transits, strict=True):
            x = transit(layers(x))
        variance, mean = torch.var_mean(x.float(), 1)
        embeddings: Tensor = self.dense(torch.cat([mean, variance.sqrt_()], -1))
        return embeddings


class _Head(nn.Module):
    def __init__(self, trained: Head, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = _convolution(trained.conv1, trained.bn1, dtype)
        blocks: list[Any] = [*trained.layer1, *trained.layer2]
        self.blocks = nn.ModuleList(_Residual(block, dtype) for block in blocks)
        self.last = _convolution(trained.conv2, trained.bn2, dtype)
        self._dtype = dtype

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, 80) -> (B, 32, 10, T), the channels last in memory."""
        if _has_kernels(fbank, self._dtype):
            from .campplus_triton import convolution, first_convolution

            x = first_convolution(fbank, self.first)
            for block in self.blocks:
                x = block(x)
            return convolution(x, self.last)
        x = fbank.to(self._dtype).transpose(1, 2)[:, None].contiguous(memory_format=torch.channels_last)
        x = self.first(x).relu_()
        for block in self.blocks:
            x = block(x)
        outputs: Tensor = self.last(x).relu_()
        return outputs


class _Residual(nn.Module):
    skip_weight: Tensor  # (32, 32), of the shortcut, which is the identity where it has no convolution

    def __init__(self, trained: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = _convolution(trained.conv1, trained.bn1, dtype)
        self.second = _convolution(trained.conv2, trained.bn2, dtype)
        shortcut: Any = trained.shortcut
        self.shortcut = _convolution(shortcut[0], shortcut[1], dtype) if len(shortcut) else nn.Identity()
        skip_weight = torch.eye(HEAD_CHANNELS, dtype=dtype)
        if isinstance(self.shortcut, nn.Conv2d):
            assert self.second.bias is not None and self.shortcut.bias is not None
            self.second.bias += self.shortcut.bias  # one addition for both
            self.shortcut.bias = None
            skip_weight = self.shortcut.weight[:, :, 0, 0].contiguous()
        self.register_buffer("skip_weight", skip_weight)

    def forward(self, x: Tensor) -> Tensor:
        if _has_kernels(x, x.dtype):
            from .campplus_triton import convolution

            return convolution(convolution(x, self.first), self.second, x, self.skip_weight)
        outputs: Tensor = self.second(self.first(x).relu_()).add_(self.shortcut(x)).relu_()
        return outputs


class _DenseLayers(nn.Module):
    def __init__(self, trained: DenseBlock, dtype: torch.dtype) -> None:
        super().__init__()
        layers: list[Any] = list(trained.values())
        self._growth: int = layers[0].cam_layer.linear_local.out_channels
        self.bottlenecks = nn.ModuleList(
            _Rectified(layer.nonlinear1.batchnorm, layer.linear1, layer.nonlinear2.batchnorm, dtype) for layer in layers
        )
        self.masks = nn.ModuleList(_MaskedConvolution(layer.cam_layer, dtype) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C + 32 for each layer)."""
        num = x.shape[-1]
        growth = self._growth
        buffer = x.new_empty(*x.shape[:2], num + growth * len(self.masks))
        buffer[..., :num] = x
        for bottleneck, mask in zip(self.bottlenecks, self.masks, strict=True):
            mask(bottleneck(buffer[..., :num]), buffer[..., num : num + growth])
            num += growth
        return buffer


class _Rectified(nn.Module):
    """linear(relu(norm(x))), as one clamp and one matrix product; relu(norm(that)) if a normalisation follows.

    With norm(x) = a x + b and t = -b / a, relu(a x + b) = a (max(x, t) - t) if a is positive, and a (min(x, t) - t) if
    it is not. So x is clamped, the linear map takes the factor a, and its bias takes the rest.
    """

    least: Tensor
    most: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, norm: Norm, conv: nn.Conv1d, following: Norm | None, dtype: torch.dtype) -> None:
        super().__init__()
        scale, shift = _affine(norm)
        scale = torch.where(scale.abs() < _LEAST_SCALE, _LEAST_SCALE, scale)
        bound = (-shift / scale).to(dtype)
        self._rectifies = following is not None
        weight, bias = _weights(conv, following)
        weight = (weight[:, :, 0] * scale).to(dtype)
        # The bias is that of the rounded numbers, so that a channel that is off adds nothing at all.
        bias = bias - weight.double() @ bound.double()
        self.register_buffer("least", torch.where(scale > 0, bound, -torch.inf))
        self.register_buffer("most", torch.where(scale > 0, torch.inf, bound))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, O)."""
        if _has_kernels(x, x.dtype):
            from .campplus_triton import clamped_linear

            bounds = self.least, self.most
            return clamped_linear(x, bounds, self.weight, self.bias, rectifies=self._rectifies)
        outputs = F.linear(x.clamp(self.least, self.most), self.weight, self.bias)
        return outputs.relu_() if self._rectifies else outputs


class _MaskedConvolution(nn.Module):
    def __init__(self, trained: ContextMask, dtype: torch.dtype) -> None:
        super().__init__()
        self.local = _as_image(trained.linear_local, dtype)
        self.first = _linear(trained.linear1, None, dtype, factor=2.0)
        self.second = _linear(trained.linear2, None, dtype)

    def forward(self, x: Tensor, outputs: Tensor) -> None:
        """Write what (B, T, 128) gives into `outputs`, (B, T, 32)."""
        num_frames = x.shape[1]
        if num_frames <= CONTEXT_FRAMES and _has_kernels(x, x.dtype):
            from .campplus_triton import masked_convolution

            masked_convolution(x, self.local, self.first, self.second, outputs)
            return
        context = x.mean(1, keepdim=True)
        if num_frames > CONTEXT_FRAMES:
            context = (context + _means(x)) / 2
        mask = self.second(self.first(context).relu_()).sigmoid_()
        if num_frames > CONTEXT_FRAMES:
            mask = mask.repeat_interleave(CONTEXT_FRAMES, 1)[:, :num_frames]
        local = self.local(x[:, None].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, 0]
        torch.mul(local, mask, out=outputs)


def _has_kernels(x: Tensor, dtype: torch.dtype) -> bool:
    return x.is_cuda and dtype == torch.float16


def _means(x: Tensor) -> Tensor:
    """(B, T, C) -> (B, seconds, C)."""
    means = F.avg_pool1d(x.transpose(1, 2), CONTEXT_FRAMES, CONTEXT_FRAMES, ceil_mode=True)
    return means.transpose(1, 2)


def _affine(norm: Norm) -> tuple[Tensor, Tensor]:
    """The scale and the shift, in float64, of each channel."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _weights(conv: nn.Conv1d | nn.Conv2d, following: Norm | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution and the normalisation after it."""
    weight = conv.weight.double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
    if following is None:
        return weight, bias
    scale, shift = _affine(following)
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), bias * scale + shift


def _convolution(conv: nn.Conv2d, norm: Norm, dtype: torch.dtype) -> nn.Conv2d:
    weight, bias = _weights(conv, norm)
    folded = nn.Conv2d(weight.shape[1], len(weight), weight.shape[2:], conv.stride, conv.padding)  # type: ignore[arg-type]
    return _filled(folded, weight, bias, dtype)


def _as_image(conv: nn.Conv1d, dtype: torch.dtype) -> nn.Conv2d:
    """The convolution over time without a bias, of images (B, C, 1, T)."""
    dilation = conv.dilation[0]
    size = conv.kernel_size[0]
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (1, size),
        padding=(0, size // 2 * dilation),
        dilation=(1, dilation),
        bias=False,
    )
    return _filled(folded, conv.weight.double()[:, :, None], None, dtype)


def _joined_bands(delay: TimeDelay, dtype: torch.dtype) -> nn.Conv2d:
    """The convolution over time of the channels of all bands: of images (B, C, bands, T) -> (B, O, 1, T / 2)."""
    norm: Any = delay.nonlinear.batchnorm
    weight, bias = _weights(delay.linear, norm)
    size = weight.shape[2]
    weight = weight.reshape(len(weight), HEAD_CHANNELS, -1, size)
    folded = nn.Conv2d(HEAD_CHANNELS, len(weight), (weight.shape[2], size), (1, 2), (0, size // 2))
    return _filled(folded, weight, bias, dtype)


def _filled(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Conv2d:
    conv.weight = nn.Parameter(weight.to(dtype).contiguous(memory_format=torch.channels_last), requires_grad=False)
    conv.bias = None if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False)
    return conv


def _linear(conv: nn.Conv1d, following: Norm | None, dtype: torch.dtype, *, factor: float = 1.0) -> nn.Linear:
    """A convolution of one frame, and the normalisation after it, of what has been divided by `factor`."""
    weight, bias = _weights(conv, following)
    linear = nn.Linear(weight.shape[1], len(weight))
    linear.weight = nn.Parameter((weight[:, :, 0] * factor).to(dtype), requires_grad=False)
    linear.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return linear
