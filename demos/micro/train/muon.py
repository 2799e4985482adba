"""Muon: momentum whose update is orthogonalised, for the matrices of hidden layers (Jordan et al., 2024).

Matrices of equal shape are stacked, so that a step costs few kernels.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
_ITERATIONS = 5


class Muon:
    """Minimal optimizer; set `lr` before each step."""

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        self.lr, self._momentum, self._weight_decay = lr, momentum, weight_decay
        groups: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            groups[tuple(parameter.shape)].append(parameter)
        self._groups = list(groups.values())
        self._averages = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self._groups]

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients."""
        for group, average in zip(self._groups, self._averages, strict=True):
            gradients = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            average.lerp_(gradients, 1 - self._momentum)
            update = orthogonalise(torch.lerp(gradients, average, self._momentum))
            scale = 0.2 * max(group[0].shape) ** 0.5  # root mean square of Adam's updates
            torch._foreach_mul_(group, 1 - self.lr * self._weight_decay)
            torch._foreach_add_(group, list(update.unbind(0)), alpha=-self.lr * scale)


def orthogonalise(matrices: Tensor) -> Tensor:
    """(K, M, N) -> nearly orthogonal matrices with the same row and column spaces."""
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
