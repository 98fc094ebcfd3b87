"""Everything that a training of the generator must remember, and its checkpoints."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.discriminator import Discriminator
from models.errors import UserError
from models.generator_file import native_checkpoint
from models.released_weights import released_key
from models.vec2face import PRESETS, Vec2Face, architecture_of, generator_state, preset_of
from models.weight_files import load_file, load_weights_strict, save_file
from utils.training.average import copied, load_average, move_average
from utils.training.optimizers import load_optimizer
from utils.training.released import is_released_training, to_native_training
from utils.training.resuming import check_settings

BETAS = (0.9, 0.99)  # of AdamW
FIXED = ("batch_size", "accum_iter", "seed")  # flags that decide which records and draws a step gets


class TrainingState:
    """Generator, discriminator, their optimisers, the loss scale, averaged weights (or None) and the number of steps.

    ``preset``: the generator's preset. ``fmae_lr``: learning rate of the layers before the image decoder, relative to
    the image decoder's; 0 freezes them. ``ema_decay``: decay of the averaged weights, 0 for none. What checkpoints also
    keep: ``settings``, the flags; ``run``, the result of ``run_description``; ``trained_on``, the result of
    ``training_vectors``.
    """

    def __init__(
        self,
        preset: str,
        generator: Vec2Face,
        discriminator: Discriminator,
        scaler: torch.amp.GradScaler,
        *,
        weight_decay: float,
        fmae_lr: float,
        ema_decay: float,
        settings: Mapping[str, Any],
        run: Mapping[str, Any],
        trained_on: Mapping[str, Any],
    ):
        self.preset, self.generator, self.discriminator, self.scaler = preset, generator, discriminator, scaler
        self.ema_decay, self.settings, self.run, self.trained_on = ema_decay, dict(settings), run, trained_on
        options = {"lr": 0.0, "betas": BETAS, "weight_decay": weight_decay, "fused": True}
        groups = self._parameter_groups()
        for parameter in groups[0]["params"]:
            parameter.requires_grad_(fmae_lr > 0)
        self.optimizer = torch.optim.AdamW(groups, **options)
        self.optimizer_disc = torch.optim.AdamW(discriminator.parameters(), **options)
        self.ema = copied(generator.state_dict()) if ema_decay else None
        self.step, self.last_step = 0, 0

    def _parameter_groups(self):
        """The parameters before the image decoder, and those of the image decoder."""
        fmae, image_decoder = [], []
        for name, parameter in self.generator.named_parameters():
            (image_decoder if name.startswith("image_decoder.") else fmae).append(parameter)
        return [{"params": fmae}, {"params": image_decoder}]

    def update_average(self) -> None:
        """Move the averaged weights, if there are any, towards the generator's weights."""
        if self.ema is not None:
            move_average(self.ema, self.generator.state_dict(), self.ema_decay)

    def generator_to_score(self) -> Vec2Face:
        """A copy of the generator in eval mode, with the averaged weights where there are any: they are exported."""
        generator = copy.deepcopy(self.generator)
        if self.ema is not None:
            generator.load_state_dict(self.ema)
        return generator.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint in one step. Raises UserError when it cannot be written; an earlier file then stays."""
        content = native_checkpoint(self.generator.state_dict(), self.preset, trained_on=self.trained_on)
        content |= {
            "model_disc": self.discriminator.state_dict(),
            "model_ema": self.ema,
            "optimizer_vec2face": self.optimizer.state_dict(),
            "optimizer_disc": self.optimizer_disc.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "last_step": self.last_step,
            "args": self.settings,
            "run": self.run,
        }
        save_file(content, path)

    def start_from(self, path: Path | str) -> None:
        """Load the weights of a trained generator. Raises UserError when it has another architecture."""
        self._load_generator(load_file(path), path)
        if self.ema is not None:
            self.ema = copied(self.generator.state_dict())

    def _load_generator(self, content, path):
        state, released = generator_state(content, path)
        preset = preset_of(state, path)
        if preset != self.preset:
            raise UserError(f"{path}: holds a {preset}; --model says {self.preset}.")
        if architecture_of(content, preset, path) != PRESETS[preset]:
            raise UserError(
                f"{path}: its image decoder normalises in 32 groups; {preset} now has wider groups. Begin anew."
            )
        name_of = released_key if released else str
        load_weights_strict(self.generator, state, path, f"a {preset} generator", name_of=name_of)

    def resume(self, content: Any, path: Path | str, steps_per_epoch: int) -> list[str]:
        """Load everything from the content of a checkpoint, this project's or the released code's; notes for the user.

        Raises UserError when it does not fit, or was made with settings that have to be the same.
        """
        released = is_released_training(content)
        notes = []
        if not released:
            self._check_parts(content, path)
            notes = check_settings(path, content, self.settings, self.run, FIXED)
        self._load_generator(content, path)
        load_weights_strict(self.discriminator, content["model_disc"], path, "the discriminator of this --disc_width")
        if released:
            models = (self.generator, self.discriminator, self.optimizer, self.optimizer_disc)
            content = to_native_training(content, path, *models, steps_per_epoch)
            notes = [f"{path}: continuing a training of the released code after {content['epoch'] + 1} epochs"]
        load_optimizer(self.optimizer, content["optimizer_vec2face"], path)
        load_optimizer(self.optimizer_disc, content["optimizer_disc"], path)
        if content.get("scaler"):  # empty after a run without a loss scale, in bfloat16 or float32
            self.scaler.load_state_dict(content["scaler"])
        if self.ema is not None:
            self.ema = load_average(self.ema, content.get("model_ema") or self.generator.state_dict())
        self.step = content["step"]
        return notes

    @staticmethod
    def _check_parts(content, path):
        parts = ("model_disc", "optimizer_vec2face", "optimizer_disc", "step")
        missing = [key for key in parts if not isinstance(content, dict) or key not in content]
        if missing:
            raise UserError(
                f"{path}: not a training checkpoint (no {', '.join(missing)} in it), so it cannot be resumed. If it is "
                f"a generator, begin a new training from it with --start_from {path}."
            )
