"""Converting a training checkpoint of the released code, so that its training can be resumed here.

The released optimisers are AdamW over all parameters of a model in one group: entry k of their state belongs to the
k-th weight of the state dict, not counting buffers. Parameters that the model never uses have no entry.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError
from models.released_weights import from_released

BUFFERS = ("token_emb.position_ids",)  # entries of the released state dicts that are not parameters
PARTS = ("model_vec2face", "model_disc", "optimizer_vec2face", "optimizer_disc", "epoch")


def is_released_training(content: Any) -> bool:
    """Whether a loaded file is a training checkpoint of the released code, which counts epochs instead of steps."""
    return isinstance(content, dict) and "step" not in content and all(key in content for key in PARTS)


def to_native_training(
    content: dict[str, Any],
    path: Path | str,
    generator: torch.nn.Module,
    discriminator: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    optimizer_disc: torch.optim.Optimizer,
    steps_per_epoch: int,
) -> dict[str, Any]:
    """A released training checkpoint in this project's format, for the given models and optimisers.

    Its ``epoch`` is the number, from 0, of the last complete epoch. Raises UserError when the entries of an optimiser's
    state cannot be assigned to parameters.
    """
    moments = optimizer_state_by_name(content["optimizer_vec2face"], content["model_vec2face"], path)
    moments_disc = optimizer_state_by_name(content["optimizer_disc"], content["model_disc"], path)
    averaged = content.get("model_ema")
    return content | {
        "optimizer_vec2face": optimizer_state(from_released(moments), generator, optimizer, path),
        "optimizer_disc": optimizer_state(moments_disc, discriminator, optimizer_disc, path),
        "model_ema": from_released(averaged) if averaged else None,
        "scaler": content.get("scaler") or {},
        "step": (content["epoch"] + 1) * steps_per_epoch,
    }


def optimizer_state_by_name(
    saved: Mapping[str, Any], model: Mapping[str, torch.Tensor], path: Path | str
) -> dict[str, dict[str, Any]]:
    """{parameter name: optimiser state}, from the state dicts of an optimiser and of its model. Raises UserError."""
    names = [name for name in model if name not in BUFFERS]
    groups = saved["param_groups"]
    numbers = range(len(names))
    if len(groups) != 1 or list(groups[0]["params"]) != list(numbers) or not set(saved["state"]) <= set(numbers):
        counts = " + ".join(str(len(group["params"])) for group in groups)
        raise not_resumable(path, f"its optimiser has {counts} parameters, its model {len(names)} in one group")
    return {names[index]: state for index, state in saved["state"].items()}


def optimizer_state(
    by_name: Mapping[str, dict[str, Any]], module: torch.nn.Module, optimizer: torch.optim.Optimizer, path: Path | str
) -> dict[str, Any]:
    """A state dict for ``optimizer``, over the parameters of ``module``, with the states in ``by_name``.

    It keeps the optimiser's learning rate and weight decay. An optimiser that has not made a step yet has no states.
    Raises UserError when a parameter has no state that fits.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    states = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        state = by_name.get(names[id(parameter)])
        if by_name and (state is None or state["exp_avg"].shape != parameter.shape):
            raise not_resumable(path, f"its optimiser has no state that fits {names[id(parameter)]}")
        if by_name:
            moments = {key: laid_out_like(parameter, state[key]) for key in ("exp_avg", "exp_avg_sq")}
            states[index] = {"step": state["step"]} | moments
    return {"state": states, "param_groups": optimizer.state_dict()["param_groups"]}


def laid_out_like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value`` in the memory format of the parameter, because the fused optimiser reads both in memory order."""
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def not_resumable(path: Path | str, reason: str) -> UserError:
    """The error that says why a released checkpoint cannot be resumed and what to do instead."""
    return UserError(
        f"{path}: a training checkpoint of the released code, but {reason}. Begin a new training from its generator "
        f"with --start_from {path}."
    )
