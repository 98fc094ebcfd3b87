"""The checkpoint of a training with the released code, in the form in which this project continues one.

The released optimisers are AdamW over all parameters of a model in one group, so that entry k of their state belongs
to the k-th weight of the state dict, buffers left out. The parameters that the model never uses have no entry.
"""

import torch

from models.errors import UserError
from models.released_weights import from_released

BUFFERS = ("token_emb.position_ids",)  # in the released state dicts, but no parameters
PARTS = ("model_vec2face", "model_disc", "optimizer_vec2face", "optimizer_disc", "epoch")


def is_released_training(content):
    """Whether a loaded file is a training checkpoint of the released code: it counts epochs where ours count steps."""
    return isinstance(content, dict) and "step" not in content and all(key in content for key in PARTS)


def continued(content, path, generator, discriminator, optimizer, optimizer_disc, steps_per_epoch):
    """A released training checkpoint in the form of ours, for models and optimisers such as these.

    ``epoch`` counts the epochs before the last complete one. Raises UserError when an optimiser's state cannot be
    told apart by name.
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


def optimizer_state_by_name(saved, model, path):
    """{parameter name: its state} of an optimiser's state dict over the parameters of a model's state dict."""
    names = [name for name in model if name not in BUFFERS]
    groups = saved["param_groups"]
    numbers = range(len(names))
    if len(groups) != 1 or list(groups[0]["params"]) != list(numbers) or not set(saved["state"]) <= set(numbers):
        counts = " + ".join(str(len(group["params"])) for group in groups)
        raise not_continued(path, f"its optimiser has {counts} parameters, its model {len(names)} in one group")
    return {names[index]: state for index, state in saved["state"].items()}


def optimizer_state(by_name, module, optimizer, path):
    """The state dict that gives ``optimizer``, over the parameters of ``module``, the states in ``by_name``.

    Its learning rate and weight decay stay. An optimiser that has not made a step yet has no states.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    states = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        state = by_name.get(names[id(parameter)])
        if by_name and (state is None or state["exp_avg"].shape != parameter.shape):
            raise not_continued(path, f"its optimiser has no state that fits {names[id(parameter)]}")
        if by_name:
            moments = {key: laid_out_like(parameter, state[key]) for key in ("exp_avg", "exp_avg_sq")}
            states[index] = {"step": state["step"]} | moments
    return {"state": states, "param_groups": optimizer.state_dict()["param_groups"]}


def laid_out_like(parameter, value):
    """``value`` in the memory format of the parameter, since the fused optimiser reads both in memory order."""
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def not_continued(path, reason):
    return UserError(
        f"{path}: a training checkpoint of the released code, but {reason}. Begin a new training from its generator "
        f"with --start_from {path}."
    )
