"""What all trainings do with an optimiser: set its learning rates, take a step, take its state from a checkpoint."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError


def set_learning_rates(optimizer: torch.optim.Optimizer, *lrs: float) -> None:
    """Set one learning rate for all parameter groups, or one for each."""
    lrs = lrs * len(optimizer.param_groups) if len(lrs) == 1 else lrs
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr


def clip_and_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    clipped: Iterable[torch.nn.Parameter],
    clip_grad: float,
) -> torch.Tensor:
    """Take a step and clear the gradients; returns the gradient norm (scalar) of the ``clipped`` parameters.

    Their norm is limited to ``clip_grad``. Under a loss scale the step is skipped when a gradient is not finite.
    ``scaler.update()`` is left to the caller, who may have several optimisers.
    """
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(clipped, clip_grad)
    scaler.step(optimizer)
    optimizer.zero_grad(set_to_none=True)
    return norm


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], path: Path | str) -> None:
    """Load an optimiser's state from a checkpoint, without its settings: those are given by this run's flags.

    ``saved``: the state dict of an optimiser over the same parameters in the same groups. Raises UserError otherwise.
    """
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
        raise UserError(f"{path}: its optimiser has other parameters or groups of them, so the run cannot be resumed.")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
