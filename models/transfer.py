"""Copies between the host and a device that neither of the two waits for."""

import torch


def upload(tensor, device):
    """A tensor on ``device``. The host does not wait for the copy, which therefore starts from pinned memory."""
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Download:
    """Tensors of one device on their way to the CPU: ``wait()`` gives them; meanwhile the device may get more work."""

    def __init__(self, *tensors):
        self.tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # from a GPU into pinned memory
        self.event = None
        if tensors[0].device.type == "cuda":
            with torch.cuda.device(tensors[0].device):  # an event belongs to the device that is current at its record
                self.event = torch.cuda.Event()
                self.event.record()

    def wait(self):
        """The tensors on the CPU, as a list, when they have arrived."""
        if self.event is not None:
            self.event.synchronize()
        return self.tensors
