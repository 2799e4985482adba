"""What the Transformer stacks share: compiled layers, masks for padded batches, attention over heads, feed-forward.

Lengths (`lens`) are (B,) integer tensors on any device. On the CPU they are checked, and a batch without padding gets
no mask. On a GPU, reading them would wait for the device, so they are not checked and there is always a mask.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_AS_WRITTEN = ContextVar("as_written", default=False)  # whether this thread runs layers that are compiled as written
_MASK_ALIGNMENT = 16  # elements; with other row strides fused attention on CUDA copies the mask in every layer


class LayerStack(nn.Module):
    """A module whose layers are all of one type, and may run compiled.

    Args:
        layer: the type; its forward takes frames (B, T, D) first.
        fixed_frames: T never changes, which lets the compiler make faster code.
    """

    def __init__(self, layer: type[nn.Module], *, fixed_frames: bool = False) -> None:
        super().__init__()
        self._layer_forward = layer.forward
        self._fixed_frames = fixed_frames
        self._run_layer: Callable[..., Tensor] = layer.__call__  # called with a layer and its forward's arguments
        self._run_as_written = self._run_layer

    def compile(self) -> None:
        """Compile the layers' forward, which all of them share.

        The first batches wait for the compiler, except within `layers_as_written`.
        """
        self._run_layer = torch.compile(self._layer_forward, dynamic=None if self._fixed_frames else True)

    def run_layers(self, layers: Iterable[nn.Module], x: Tensor, *rest: object) -> Tensor:
        """Run the layers in turn on frames (B, T, D); each also gets the arguments in `rest`."""
        run = self._run_as_written if _AS_WRITTEN.get() else self._run_layer
        if self._fixed_frames and run is not self._run_as_written:
            torch._dynamo.maybe_mark_dynamic(x, 0)  # B does change
        for layer in layers:
            x = run(layer, x, *rest)
        return x


@contextmanager
def layers_as_written(*, active: bool) -> Iterator[None]:
    """Run no compiled layer in this thread, if `active`; another may be compiling them meanwhile."""
    token = _AS_WRITTEN.set(active)
    try:
        yield
    finally:
        _AS_WRITTEN.reset(token)


def valid_frames(lens: Tensor, num_frames: int, device: torch.device) -> Tensor | None:
    """(B, num_frames) bool, true for a clip's own frames; None if `lens` are on the CPU and there is no padding.

    None lets attention run without a mask, on its fastest kernels.

    Raises:
        ValueError: a length outside 1..num_frames, if `lens` are on the CPU.
    """
    frames = torch.arange(num_frames, device=lens.device)
    if lens.is_cuda:
        return frames < lens[:, None]
    shortest, longest = (int(bound) for bound in torch.aminmax(lens))
    if shortest < 1 or longest > num_frames:
        raise ValueError(f"lengths must be in 1..{num_frames} (the padded length), got {shortest}..{longest}")
    if shortest == num_frames:
        return None
    return (frames < lens[:, None]).to(device, non_blocking=True)


def has_kernels(x: Tensor) -> bool:
    """Whether x may take kernels that need a GPU and have no gradients."""
    return x.is_cuda and not torch.is_grad_enabled()  # is_inference_mode_enabled() would break the compiled graph


def is_half_on_gpu(x: Tensor) -> bool:
    """Whether flash attention can run on x."""
    return has_kernels(x) and x.dtype in (torch.bfloat16, torch.float16)


class PaddedKeys(NamedTuple):
    """Where the keys of each sequence are among the rows of all sequences, for attention within sequences."""

    starts: Tensor  # (B + 1,) int32: where each sequence's rows begin, padding included
    lens: Tensor  # (B,) int32


Mask: TypeAlias = Tensor | PaddedKeys | None  # the keys that attention may use; None: all


def key_mask(lens: Tensor, num_frames: int, weight: Tensor) -> Mask:
    """The mask of a batch (B, num_frames) with these lengths, for layers with the device and dtype of `weight`.

    It is PaddedKeys on a GPU in half precision, since each layer would otherwise copy a bias for all its heads; else a
    bias.
    """
    if lens.is_cuda and is_half_on_gpu(weight):
        starts = torch.arange(len(lens) + 1, dtype=torch.int32, device=lens.device) * num_frames
        return PaddedKeys(starts, lens.int())
    return attention_bias(valid_frames(lens, num_frames, weight.device), weight.dtype)


def attention_bias(valid: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(B, T) bool -> (B, 1, 1, T) of `dtype`: 0 for real keys, -inf for padding. None stays None."""
    if valid is None:
        return None
    batch, num_frames = valid.shape
    # Always at least one element of padding: without it the strides differ and torch.compile compiles again.
    aligned = (num_frames // _MASK_ALIGNMENT + 1) * _MASK_ALIGNMENT
    bias = torch.full((batch, 1, 1, aligned), float("-inf"), dtype=dtype, device=valid.device)[..., :num_frames]
    return bias.masked_fill_(valid[:, None, None, :], 0.0)


@contextmanager
def attention_for_any_shape() -> Iterator[None]:
    """Exclude cuDNN from attention. It plans for each new shape, and nearly every batch has a new shape."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def attend(query: Tensor, key: Tensor, value: Tensor, *, num_heads: int, mask: Mask) -> Tensor:
    """Scaled dot-product attention: query, key and value (B, T, D), heads side by side in D -> (B, T, D)."""
    batch, num_frames, width = query.shape
    heads = (batch, num_frames, num_heads, width // num_heads)
    q, k, v = query.view(heads), key.view(heads), value.view(heads)
    if isinstance(mask, PaddedKeys):
        rows = attend_rows(*(each.flatten(0, 1) for each in (q, k, v)), keys=mask, longest=num_frames)
        return rows.view(batch, num_frames, width)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def attend_rows(query: Tensor, key: Tensor, value: Tensor, *, keys: PaddedKeys, longest: int) -> Tensor:
    """Attention within sequences of up to `longest` rows: query, key and value (N, heads, D / heads) -> the same."""
    # The public function, varlen_attn, has no seqused_k before PyTorch 2.12.
    attended: tuple[Tensor, ...] = torch.ops.aten._flash_attention_forward(
        query, key, value, keys.starts, keys.starts, longest, longest, 0.0, False, False, seqused_k=keys.lens
    )
    return attended[0]


class FeedForward(nn.Module):
    """Linear, ReLU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(self._hidden(x))
        return out

    def _hidden(self, x: Tensor) -> Tensor:
        if not has_kernels(x):
            return F.relu(self.w_1(x))
        # ReLU inside the matrix product saves reading and writing the hidden frames once more.
        rows: Tensor = torch.ops.aten._addmm_activation(self.w_1.bias, x.flatten(0, 1), self.w_1.weight.t())
        return rows.view(*x.shape[:2], -1)
