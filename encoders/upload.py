"""Small tensors from the CPU to a device and back."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device. A GPU's is only queued: from memory that is not pinned it would wait for all before it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def from_device(*tensors: Tensor) -> list[Tensor]:
    """What one device holds, on the CPU. Where that is a GPU, it is waited for once, not for each of them."""
    if not tensors[0].is_cuda:
        return [tensor.cpu() for tensor in tensors]
    copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies
