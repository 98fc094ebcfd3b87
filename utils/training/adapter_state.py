"""Everything that the training of an adapter for landmark control must remember, and its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.errors import UserError
from models.pose_control import adapter_state
from models.vec2face import Vec2Face
from models.weight_files import save_file
from utils.training.optimizers import load_optimizer
from utils.training.resuming import check_settings

FIXED = ("batch_size", "accum_iter", "seed")  # flags that decide which records and draws a step gets


class AdapterState:
    """A generator with its adapter, the adapter's optimiser, the loss scale and the number of steps.

    There are no averaged weights. ``parameters``: those that are trained.
    ``about``: what makes an adapter file beside the weights: "model", "lora", "condition" and "generator_sha256".
    ``settings``, the flags, and ``run``, the result of ``run_description``, are kept in the checkpoints.
    """

    ema = None

    def __init__(
        self, generator: Vec2Face, parameters: list[torch.nn.Parameter], scaler: torch.amp.GradScaler,
        *, weight_decay: float, about: Mapping[str, Any], settings: Mapping[str, Any], run: Mapping[str, Any],
    ):  # fmt: skip
        self.generator, self.parameters, self.scaler = generator, parameters, scaler
        self.about, self.settings, self.run = dict(about), dict(settings), run
        self.optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=weight_decay)
        self.step, self.last_step = 0, 0

    def update_average(self) -> None:
        """Do nothing, for ``train_network``: there is no average."""

    def adapter(self) -> dict[str, Any]:
        """The content of an adapter file."""
        lora, encoder = adapter_state(self.generator)
        return {"model_vec2face": lora, "pose_model": encoder} | self.about

    def save(self, path: Path) -> None:
        """Write a checkpoint in one step. Raises UserError when it cannot be written; an earlier file then stays."""
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "step": self.step}
        state |= {"last_step": self.last_step, "args": self.settings, "run": self.run}
        save_file(self.adapter() | state, path)

    def resume(self, content: Any, path: Path | str) -> list[str]:
        """Load everything from the content of a checkpoint; notes for the user.

        Raises UserError when it does not fit, or was made with settings that have to be the same.
        """
        if not isinstance(content, dict) or not {"model_vec2face", "pose_model", "optimizer", "step"} <= content.keys():
            raise UserError(f"{path}: not a checkpoint of train_pose_control.py.")
        for name, value in self.about.items():
            if content.get(name) != value:
                raise UserError(
                    f"{path}: cannot be resumed, because it is another adapter: its {name} is {content.get(name)}, "
                    f"that of this run {value}."
                )
        notes = check_settings(path, content, self.settings, self.run, FIXED)
        loaded = self.generator.load_state_dict(content["model_vec2face"], strict=False)
        if loaded.unexpected_keys:
            raise UserError(f"{path}: not a checkpoint of an adapter for this generator.")
        self.generator.landmark_encoder.load_state_dict(content["pose_model"])
        load_optimizer(self.optimizer, content["optimizer"], path)
        if content.get("scaler"):  # empty after a run without a loss scale, in bfloat16 or float32
            self.scaler.load_state_dict(content["scaler"])
        self.step = content["step"]
        return notes
