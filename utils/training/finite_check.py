"""Stopping a training whose numbers are not finite, without making the host wait for the GPU in every step."""

import math
from collections.abc import Mapping

import torch

from models.errors import UserError
from models.transfer import Download


def values_to_check(
    losses: Mapping[str, torch.Tensor], norms: Mapping[str, torch.Tensor], scaler: torch.amp.GradScaler
) -> dict[str, torch.Tensor]:
    """What must be finite in a step, {name: scalar}: the losses and, without a loss scale, the gradient norms.

    Gradients that overflow are handled by a loss scale. Otherwise their norms, which include the gradients of all
    processes, tell every process in time that one of them has a loss that is not finite.
    """
    return dict(losses) if scaler.is_enabled() else {**losses, **norms}


class FiniteCheck:
    """Checks that the values of every step are finite.

    On a GPU the values of a step are copied to pinned memory while the host continues. They are read when those of the
    next step are being copied, so that the GPU always has a step of work queued. Values that are not finite are
    therefore noticed after the weights were updated with them. This does no harm as long as ``settle`` is called before
    a checkpoint or a line of the log is written: the run then ends with the last good checkpoint. On a CPU the values
    are read at once.
    """

    def __init__(self):
        self.pending = None  # (Download of the values, their names, step, remark)

    def add(self, values: Mapping[str, torch.Tensor], step: int, remark: str) -> None:
        """Start to check the values {name: scalar} of a step, and finish the check of the step before.

        ``remark``: end of the message. Raises UserError as ``settle`` does.
        """
        stacked = torch.stack([value.detach().float() for value in values.values()])  # (V,)
        before, self.pending = self.pending, (Download(stacked), list(values), step, remark)
        self._read(before)
        if stacked.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Finish the check of the last step.

        Raises UserError that names the step and the first value that is not finite.
        """
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
