"""Stopping a training whose numbers are not finite, without making the host wait for the GPU in every step."""

import math

import torch

from utils.errors import UserError


class FiniteCheck:
    """Checks that the losses of every step are finite.

    On a GPU the values of a step travel to pinned memory while the host goes on; they are read when those of the next
    step are on their way, so the GPU always has a step of work queued. A step with bad values is thus noticed after the
    weights took it. That does no harm as long as whoever writes a checkpoint or a line of the log calls ``settle``
    before: the run ends with the last good checkpoint. On a CPU the values are read at once.
    """

    def __init__(self):
        self.pending = None  # (values on the host, event after which they are there, names, step, remark)

    def add(self, values, step, remark):
        """Check the step before this one. ``values``: {name: scalar} of this step, ``remark``: ends a message on them.

        Raises UserError as ``settle`` does.
        """
        stacked = torch.stack([value.detach().float() for value in values.values()])  # (V,)
        on_host, event = stacked.to("cpu", non_blocking=True), None
        if stacked.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        before, self.pending = self.pending, (on_host, event, list(values), step, remark)
        self._read(before)
        if event is None:
            self.settle()

    def settle(self):
        """Check the last step. Raises UserError that names the step and the first value that is not finite."""
        last, self.pending = self.pending, None
        self._read(last)

    @staticmethod
    def _read(entry):
        if entry is None:
            return
        on_host, event, names, step, remark = entry
        if event is not None:
            event.synchronize()
        for name, value in zip(names, on_host.tolist(), strict=True):
            if not math.isfinite(value):
                raise UserError(f"step {step}: the {name} is {value}; {remark}")
