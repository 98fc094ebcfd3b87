"""Non-blocking copies between the host and a device."""

from __future__ import annotations

import torch


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device. The copy to a GPU is made from pinned memory, so that the host does not wait for it."""
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Download:
    """A copy of tensors from one device to the CPU, during which the host may queue further work on the device.

    ``wait`` returns the copies.
    """

    def __init__(self, *tensors: torch.Tensor):
        self.tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # pinned if from a GPU
        self.event = None
        if tensors[0].device.type == "cuda":
            with torch.cuda.device(tensors[0].device):  # an event is recorded on the current device
                self.event = torch.cuda.Event()
                self.event.record()

    def wait(self) -> list[torch.Tensor]:
        """Wait until the copy is complete, and return the tensors on the CPU."""
        if self.event is not None:
            self.event.synchronize()
        return self.tensors
