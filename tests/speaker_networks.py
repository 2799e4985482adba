"""Speaker networks of the published sizes with random weights, whose embeddings tell clips apart."""

import torch
from torch import nn

from twostage_asr.encoders.campplus import CAMPlusPlus
from twostage_asr.encoders.eres2netv2 import ERes2NetV2

NETWORKS: dict[str, type[CAMPlusPlus | ERes2NetV2]] = {"campplus": CAMPlusPlus, "eres2netv2": ERes2NetV2}


def random_network(name: str) -> nn.Module:
    """The statistics of BatchNorm are those of noise, as if trained; by default the activations would die away."""
    torch.manual_seed(0)
    network = NETWORKS[name]().train()
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
    with torch.no_grad():
        network(torch.randn(6, 60, 80) * torch.rand(6, 1, 80) * 3)
    return network.eval().requires_grad_(False)
