"""The state of a margin head and its momentum in checkpoints: that of the whole head, also where it is sharded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError
from models.heads import EARLIER_NAME, CosineClassifier, native_head_state
from models.sharded_head import ShardedHead
from models.weight_files import load_weights_strict
from utils.training.optimizers import load_optimizer

StateDict = Mapping[str, Any]
MOMENTUM = "momentum_buffer"


def whole_head(
    head: CosineClassifier | ShardedHead, optimizer: torch.optim.Optimizer
) -> tuple[StateDict, StateDict] | tuple[None, None]:
    """The state dicts of the whole head and of the optimiser. A ShardedHead is gathered on rank 0; None on the others.

    Every process has to call this if the head is sharded.
    """
    state = optimizer.state_dict()
    if not isinstance(head, ShardedHead):
        return head.state_dict(), state
    directions = head.whole(head.directions.detach())  # (classes, D)
    number = number_of(head.directions, optimizer)
    own = state["state"].get(number, {})
    momentum = head.whole(own[MOMENTUM]) if own.get(MOMENTUM) is not None else None  # (classes, D)
    if directions is None:
        return None, None
    if momentum is not None:
        state["state"] = state["state"] | {number: own | {MOMENTUM: momentum}}
    return {**head.head.state_dict(), "directions": directions}, state


def load_whole_head(
    head: CosineClassifier | ShardedHead,
    optimizer: torch.optim.Optimizer,
    saved_head: StateDict,
    saved_optimizer: StateDict,
    path: Path | str,
) -> None:
    """Load what ``whole_head`` gave, or what an earlier version wrote; a ShardedHead takes the rows of its classes.

    Raises UserError when they do not fit.
    """
    number = number_of(head.directions, optimizer)
    own = saved_optimizer["state"].get(number, {})
    if EARLIER_NAME in saved_head and own.get(MOMENTUM) is not None:  # the directions were stored transposed
        own = own | {MOMENTUM: own[MOMENTUM].T.contiguous()}  # (D, classes) -> (classes, D)
    saved_head = native_head_state(saved_head)
    if isinstance(head, ShardedHead):
        classes = len(saved_head.get("directions", ()))
        if classes != head.classes:
            raise UserError(f"{path}: its head has {classes} identities, and --data has {head.classes}.")
        saved_head = {**saved_head, "directions": head.own_rows(saved_head["directions"])}
        if own.get(MOMENTUM) is not None:
            own = own | {MOMENTUM: head.own_rows(own[MOMENTUM]).clone()}
    whole = head.head if isinstance(head, ShardedHead) else head
    load_weights_strict(whole, saved_head, path, "this --head for these identities")
    states = saved_optimizer["state"] | ({number: own} if own else {})
    load_optimizer(optimizer, {**saved_optimizer, "state": states}, path)


def number_of(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> int:
    """The number of a parameter in the optimiser's state dict."""
    parameters = [own for group in optimizer.param_groups for own in group["params"]]
    return next(number for number, own in enumerate(parameters) if own is parameter)
