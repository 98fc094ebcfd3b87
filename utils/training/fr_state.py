"""Everything that an FR training must remember, and its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from models.errors import UserError
from models.recogniser import Recogniser
from models.weight_files import load_weights_strict, save_file
from utils.training.head_state import load_whole_head, whole_head
from utils.training.resuming import check_settings, step_with

FIXED = ("batch_size", "seed")  # flags that decide which photos and draws a step gets


def make_optimizer(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD, without weight decay on BatchNorm.

    It is fused, because this variant skips a step with float16 gradients that overflow without the host waiting for
    the GPU. Its momentum is initialised with zeros here: PyTorch leaves it uninitialised if the very first step is
    skipped.
    """
    norms = (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))
    without_decay = {id(p) for norm in norms for p in norm.parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in without_decay], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in without_decay], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    for parameter in parameters if momentum else ():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class RecogniserState:
    """Recogniser, optimiser, loss scale and the number of steps.

    ``settings``, the flags, and ``run``, the result of ``run_description``, are kept in the checkpoints.
    """

    def __init__(
        self,
        model: Recogniser,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        settings: Mapping[str, Any],
        run: Mapping[str, Any],
    ):
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.settings, self.run, self.step = dict(settings), run, 0

    def save(self, path: Path, writes: bool = True) -> None:
        """Write a checkpoint in one step. Raises UserError when it cannot be written; an earlier file then stays.

        ``writes``: whether this process is the one that writes it. All have to call this, because a ShardedHead is
        gathered: its checkpoint is that of a whole head.
        """
        model = self.model
        head, optimizer = whole_head(model.head, self.optimizer)
        if not writes:
            return
        content = {"backbone": model.backbone.state_dict(), "head": head, "step": self.step}
        content |= {"traces": model.readout.state_dict()} if model.readout else {}
        content |= {
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
            "args": self.settings,
            "run": self.run,
        }
        save_file(content, path)

    def resume(self, content: Any, path: Path | str, count: int | None = None) -> list[str]:
        """Load everything from the content of a checkpoint; notes for the user.

        ``count``: number of items in an epoch, with which a run may go on with another number of processes. Raises
        UserError when the checkpoint does not fit, or was made with settings that have to be the same.
        """
        model = self.model
        parts = ("backbone", "head", "optimizer", "scaler", "step") + (("traces",) if model.readout else ())
        missing = [key for key in parts if not isinstance(content, dict) or key not in content]
        if missing:
            raise UserError(f"{path}: not a checkpoint of this script: no {', '.join(missing)}.")
        processes = (content.get("run") or {}).get("processes", self.run["processes"])
        may_change = ("processes",) if count else ()
        notes = check_settings(path, content, self.settings, self.run, FIXED, may_change)
        load_weights_strict(model.backbone, content["backbone"], path, "this --network, --width and --se")
        load_whole_head(model.head, self.optimizer, content["head"], content["optimizer"], path)
        if model.readout:
            load_weights_strict(model.readout, content["traces"], path, "the auxiliary readout of --readout_weights")
        if content["scaler"]:  # empty after a run without a loss scale, in bfloat16 or float32
            self.scaler.load_state_dict(content["scaler"])
        self.step = content["step"]
        if processes != self.run["processes"]:
            self.step = step_with(self.run["processes"], processes, self.step, count, self.settings["batch_size"])
            notes.append(
                f"note: the number of processes is {self.run['processes']} (was {processes}), and the step at which "
                f"the run goes on {self.step} (was {content['step']})"
            )
        return notes
