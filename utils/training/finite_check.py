"""Stopping a training whose numbers are not finite, without making the host wait for the GPU in every step."""

import math

import torch

from models.errors import UserError
from models.transfer import Download


class FiniteCheck:
    """Checks that the losses of every step are finite.

    On a GPU the values of a step travel to pinned memory while the host goes on; they are read when those of the next
    step are on their way, so the GPU always has a step of work queued. A step with bad values is thus noticed after the
    weights took it. That does no harm as long as whoever writes a checkpoint or a line of the log calls ``settle``
    before: the run ends with the last good checkpoint. On a CPU the values are read at once.
    """

    def __init__(self):
        self.pending = None  # (Download of the values, their names, step, remark)

    def add(self, values, step, remark):
        """Check the step before this one. ``values``: {name: scalar} of this step, ``remark``: ends a message on them.

        Raises UserError as ``settle`` does.
        """
        stacked = torch.stack([value.detach().float() for value in values.values()])  # (V,)
        before, self.pending = self.pending, (Download(stacked), list(values), step, remark)
        self._read(before)
        if stacked.device.type == "cpu":
            self.settle()

    def settle(self):
        """Check the last step. Raises UserError that names the step and the first value that is not finite."""
        last, self.pending = self.pending, None
        self._read(last)

    @staticmethod
    def _read(entry):
        if entry is None:
            return
        download, names, step, remark = entry
        for name, value in zip(names, download.wait()[0].tolist(), strict=True):
            if not math.isfinite(value):
                raise UserError(f"step {step}: the {name} is {value}; {remark}")
