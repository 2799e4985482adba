"""Copies of small tensors from the CPU to a device and back."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device. On a GPU it is only queued; from unpinned memory it would wait for all earlier work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def from_device(*tensors: Tensor) -> list[Tensor]:
    """Copies on the CPU of tensors of one device. On a GPU there is one synchronisation for all of them."""
    if not tensors[0].is_cuda:
        return [tensor.cpu() for tensor in tensors]
    copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


def to_cpu(tensor: Tensor, *, sleeps: bool = False) -> tuple[Tensor, torch.cuda.Event | None]:
    """The tensor on the CPU; from a CUDA device without waiting, and the event after which it can be read.

    Who waits for the event keeps a core busy, which is soonest, or `sleeps` meanwhile, which leaves the core to others.
    """
    if not tensor.is_cuda:
        return tensor.cpu(), None
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    done = torch.cuda.Event(blocking=sleeps)  # type: ignore[no-untyped-call]
    done.record()
    return copy, done
