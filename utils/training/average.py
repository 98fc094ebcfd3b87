"""The exponential moving average of a network's weights."""

from collections.abc import Mapping

import torch

from models.weight_files import StateDict


def copied(state: StateDict) -> dict[str, torch.Tensor]:
    """A copy of a state dict that training does not change."""
    return {key: value.detach().clone() for key, value in state.items()}


def move_average(average: Mapping[str, torch.Tensor], current: StateDict, decay: float) -> None:
    """Move the averaged weights, in place, towards the current ones: a <- decay a + (1 - decay) w."""
    torch._foreach_lerp_([average[key] for key in current], list(current.values()), 1 - decay)


def load_average(average: Mapping[str, torch.Tensor], saved: StateDict) -> dict[str, torch.Tensor]:
    """The averaged weights of a checkpoint, on the devices of ``average``."""
    return {key: value.to(average[key].device, copy=True) for key, value in saved.items()}
