"""ERes2NetV2: a speaker embedding of 192 numbers from the filterbank of a stretch of speech.

Chen et al., "ERes2NetV2: Boosting Short-Duration Speaker Verification Performance with Computational Efficiency",
Interspeech 2024. The names of the modules are those of the published weights, so that a state dict loads strictly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

EMBEDDING_SIZE = 192
_CHANNELS, _NUM_BLOCKS, _EXPANSION, _BASE_WIDTH, _SCALE = 64, (3, 4, 6, 3), 2, 26, 2
_CLIP = 20.0  # the upper bound of its rectifier
_VARIANCE_FLOOR = 1e-8


class ERes2NetV2(nn.Module):
    """The embedding network. A clip's embedding does not depend on the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        width = _CHANNELS
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _layer(width, width, _NUM_BLOCKS[0], stride=1, fuse=False)
        self.layer2 = _layer(width * 2, width * 2, _NUM_BLOCKS[1], stride=2, fuse=False)
        self.layer3 = _layer(width * 4, width * 4, _NUM_BLOCKS[2], stride=2, fuse=True)
        self.layer4 = _layer(width * 8, width * 8, _NUM_BLOCKS[3], stride=2, fuse=True)
        self.layer3_ds = nn.Conv2d(width * 8, width * 16, 3, padding=1, stride=2, bias=False)
        self.fuse34 = _Fusion(width * 16)
        self.seg_1 = nn.Linear(80 // 8 * width * 16 * 2, EMBEDDING_SIZE)

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, 80) without its mean over time, T at least 9 -> (B, 192), not normalised."""
        x = F.relu(self.bn1(self.conv1(fbank.transpose(1, 2)[:, None])))
        third = self.layer3(self.layer2(self.layer1(x)))
        fused = self.fuse34(self.layer4(third), self.layer3_ds(third))
        deviation = (fused.var(-1) + _VARIANCE_FLOOR).sqrt()
        embeddings: Tensor = self.seg_1(torch.cat([fused.mean(-1).flatten(1), deviation.flatten(1)], 1))
        return embeddings


def without_norms(network: ERes2NetV2) -> ERes2NetV2:
    """The same network for inference, changed in place: each normalisation is folded into the convolution before it."""
    parts = dict(network.named_modules())
    for name, conv in parts.items():
        following = _norm_after(name)
        norm = parts.get(following)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded = fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = folded.weight, folded.bias
            network.set_submodule(following, nn.Identity())
    return network


def _norm_after(name: str) -> str:
    """Where the normalisation after the convolution of this name is, if there is one."""
    parent, _, last = name.rpartition(".")
    return f"{parent}.{int(last) + 1}" if last.isdecimal() and "conv" not in name else name.replace("conv", "bn")


def _layer(in_planes: int, planes: int, num_blocks: int, *, stride: int, fuse: bool) -> nn.Sequential:
    first = _Block(in_planes, planes, stride, fuse=fuse)
    return nn.Sequential(first, *(_Block(planes * _EXPANSION, planes, 1, fuse=fuse) for _ in range(num_blocks - 1)))


class _Fusion(nn.Module):
    """Adds two maps, with weights that depend on both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.local_att = nn.Sequential(
            nn.Conv2d(channels * 2, inner, 1),
            nn.BatchNorm2d(inner),
            nn.SiLU(inplace=True),
            nn.Conv2d(inner, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        share = self.local_att(torch.cat([x, y], 1)).tanh()
        fused: Tensor = x * (1.0 + share) + y * (1.0 - share)
        return fused


class _Block(nn.Module):
    """A residual block whose channels are convolved in groups, each with what the group before it gave."""

    def __init__(self, in_planes: int, planes: int, stride: int, *, fuse: bool) -> None:
        super().__init__()
        self._width = width = planes * _BASE_WIDTH // 64
        outputs = planes * _EXPANSION
        self.conv1 = nn.Conv2d(in_planes, width * _SCALE, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width * _SCALE)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(_SCALE))
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(_SCALE))
        if fuse:
            self.fuse_models = nn.ModuleList(_Fusion(width) for _ in range(_SCALE - 1))
        self._fuses = fuse
        self.conv3 = nn.Conv2d(width * _SCALE, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        groups = self.bn1(self.conv1(x)).clamp(0.0, _CLIP).split(self._width, 1)
        convolved: list[Tensor] = []
        for number, group in enumerate(groups):
            if number:
                before = convolved[-1]
                group = self.fuse_models[number - 1](before, group) if self._fuses else before + group
            convolved.append(self.bns[number](self.convs[number](group)).clamp(0.0, _CLIP))
        inner = self.bn3(self.conv3(torch.cat(convolved, 1)))
        outputs: Tensor = (inner + self.shortcut(x)).clamp(0.0, _CLIP)
        return outputs
