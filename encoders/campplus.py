"""CAM++: a speaker embedding of 192 numbers from the filterbank of a stretch of speech.

Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking", Interspeech
2023. The names of the modules are those of the published weights, so that a state dict loads strictly.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_MELS = 80
EMBEDDING_SIZE = 192
HEAD_CHANNELS = 32
CONTEXT_FRAMES = 100  # over which a layer's local context is averaged
_GROWTH, _BOTTLENECK, _INITIAL_CHANNELS = 32, 128, 128
_BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation of each dense block


class CAMPPlus(nn.Module):
    """The embedding network. A clip's embedding does not depend on the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        channels = _INITIAL_CHANNELS
        parts: OrderedDict[str, nn.Module] = OrderedDict(tdnn=TimeDelay(HEAD_CHANNELS * NUM_MELS // 8, channels))
        for number, (num_layers, dilation) in enumerate(_BLOCKS, start=1):
            parts[f"block{number}"] = DenseBlock(channels, num_layers, dilation)
            channels += num_layers * _GROWTH
            parts[f"transit{number}"] = _Transit(channels)
            channels //= 2
        parts["out_nonlinear"] = _normalised_relu(channels)
        parts["stats"] = _Statistics()
        parts["dense"] = _Dense(2 * channels)
        self.xvector = nn.Sequential(parts)

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, 80) without its mean over time, T at least 3 -> (B, 192), not normalised."""
        embeddings: Tensor = self.xvector(self.head(fbank.transpose(1, 2)))
        return embeddings


def _normalised_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU(inplace=True)))


class ResidualBlock(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        channels = HEAD_CHANNELS
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            projection = nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class Head(nn.Module):
    """Two-dimensional convolutions that reduce the 80 mel bands to 10 of 32 channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, HEAD_CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(HEAD_CHANNELS)
        self.layer1 = nn.Sequential(ResidualBlock(2), ResidualBlock(1))
        self.layer2 = nn.Sequential(ResidualBlock(2), ResidualBlock(1))
        self.conv2 = nn.Conv2d(HEAD_CHANNELS, HEAD_CHANNELS, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(HEAD_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 80, T) -> (B, 320, T)."""
        x = F.relu(self.bn1(self.conv1(x[:, None])))
        x = F.relu(self.bn2(self.conv2(self.layer2(self.layer1(x)))))
        return x.flatten(1, 2)


class TimeDelay(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _normalised_relu(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.nonlinear(self.linear(x))
        return outputs


class ContextMask(nn.Module):
    """A convolution whose outputs are masked according to the mean of the clip and of each second of it."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(_BOTTLENECK, _GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(_BOTTLENECK, _BOTTLENECK // 2, 1)
        self.linear2 = nn.Conv1d(_BOTTLENECK // 2, _GROWTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        seconds = F.avg_pool1d(x, CONTEXT_FRAMES, CONTEXT_FRAMES, ceil_mode=True)
        # The mask is the same within a second, so it is computed once for each.
        mask = self.linear2(F.relu(self.linear1(x.mean(-1, keepdim=True) + seconds))).sigmoid()
        masked: Tensor = self.linear_local(x) * mask.repeat_interleave(CONTEXT_FRAMES, -1)[..., : x.shape[-1]]
        return masked


class _DenseLayer(nn.Module):
    def __init__(self, in_channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _normalised_relu(in_channels)
        self.linear1 = nn.Conv1d(in_channels, _BOTTLENECK, 1, bias=False)
        self.nonlinear2 = _normalised_relu(_BOTTLENECK)
        self.cam_layer = ContextMask(dilation)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))
        return outputs


class DenseBlock(nn.ModuleDict):
    """Layers that each see the outputs of all layers before them."""

    def __init__(self, in_channels: int, num_layers: int, dilation: int) -> None:
        super().__init__({f"tdnnd{n + 1}": _DenseLayer(in_channels + n * _GROWTH, dilation) for n in range(num_layers)})

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


class _Transit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nonlinear = _normalised_relu(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.nonlinear(x))
        return outputs


class _Statistics(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, 2 * C): the mean and the standard deviation over time."""
        return torch.cat([x.mean(-1), x.std(-1)], -1)


class _Dense(nn.Module):
    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, EMBEDDING_SIZE, 1, bias=False)
        self.nonlinear = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(EMBEDDING_SIZE, affine=False)))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.nonlinear(self.linear(x[..., None])[..., 0])
        return outputs
