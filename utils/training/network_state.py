"""Everything that the training of a single network must remember, and its checkpoints."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from models.errors import UserError
from models.weight_files import load_weights_strict, save_file
from utils.training.average import copied, load_average, move_average
from utils.training.optimizers import load_optimizer
from utils.training.resuming import check_settings

FIXED = ("batch_size", "accum_iter", "seed")  # flags that decide which records and draws a step gets


class NetworkState:
    """A network, Adam, the loss scale, averaged weights (or None) and the number of steps.

    ``key``: the name of the weights in a checkpoint, such as "model_uiface"; ``about``: what a weight file has beside
    them. ``ema_decay``: decay of the averaged weights, 0 for none. ``settings``, the flags, and ``run``, the result of
    ``run_description``, are kept in the checkpoints.
    """

    def __init__(
        self, key: str, network: nn.Module, scaler: torch.amp.GradScaler,
        *, ema_decay: float, about: Mapping[str, Any], settings: Mapping[str, Any], run: Mapping[str, Any],
    ):  # fmt: skip
        self.key, self.network, self.scaler, self.ema_decay = key, network, scaler, ema_decay
        self.about, self.settings, self.run = dict(about), dict(settings), run
        self.optimizer = torch.optim.Adam(network.parameters(), lr=0.0, fused=True)
        self.ema = copied(network.state_dict()) if ema_decay else None
        self.step, self.last_step = 0, 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained: all."""
        return list(self.network.parameters())

    def update_average(self) -> None:
        """Move the averaged weights, if there are any, towards the network's weights."""
        if self.ema is not None:
            move_average(self.ema, self.network.state_dict(), self.ema_decay)

    def network_to_score(self) -> nn.Module:
        """A copy of the network in eval mode, with the averaged weights where there are any: they are the result."""
        network = copy.deepcopy(self.network)
        if self.ema is not None:
            network.load_state_dict(self.ema)
        return network.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint in one step. Raises UserError when it cannot be written; an earlier file then stays."""
        content = {self.key: self.network.state_dict(), "model_ema": self.ema, "optimizer": self.optimizer.state_dict()}
        content |= {"scaler": self.scaler.state_dict(), "step": self.step, "last_step": self.last_step}
        save_file(content | {"args": self.settings, "run": self.run} | self.about, path)

    def resume(self, content: Any, path: Path | str) -> list[str]:
        """Load everything from the content of a checkpoint; notes for the user.

        Raises UserError when it does not fit, or was made with settings that have to be the same.
        """
        if not isinstance(content, dict) or not {self.key, "optimizer", "step"} <= content.keys():
            raise UserError(f"{path}: not a checkpoint of this training: it has no {self.key} or no optimiser.")
        notes = check_settings(path, content, self.settings, self.run, FIXED)
        load_weights_strict(self.network, content[self.key], path, f"the network of this run ({self.key})")
        load_optimizer(self.optimizer, content["optimizer"], path)
        if content.get("scaler"):  # empty after a run without a loss scale, in bfloat16 or float32
            self.scaler.load_state_dict(content["scaler"])
        if self.ema is not None:
            self.ema = load_average(self.ema, content.get("model_ema") or self.network.state_dict())
        self.step = content["step"]
        return notes
