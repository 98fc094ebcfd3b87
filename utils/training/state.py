"""Everything a training run must remember, and its checkpoints."""

from pathlib import Path

import numpy as np
import torch

from models.discriminator import Discriminator
from models.errors import UserError
from models.generator_file import own_form, training_vectors
from models.released_weights import released_key
from models.vec2face import PRESETS, Vec2Face, architecture_of, generator_state, preset_of
from models.weight_files import fit, load_file, save_file
from utils.evaluation.reconstruction import reconstruct
from utils.training.released import continued, is_released_training
from utils.training.resuming import check_settings, load_optimizer

BETAS = (0.9, 0.99)
FIXED = ("batch_size", "accum_iter", "seed")  # flags that decide which records and draws a step sees
SCORED = 256  # held-out photos at most, spread over all


class TrainingState:
    """Generator, discriminator, their optimisers, the scaler, averaged weights (or None), steps done and to do.

    ``feature_norms``: mean and standard deviation of the norms of the vectors, kept for those who generate with it.
    ``run``: what a resumed run must agree with, see utils/training/resuming.py. ``notes``: what to tell the user.
    """

    def __init__(self, args, device, precision, feature_norms, run):
        self.folder, self.model_name, self.ema_decay = Path(args.output_dir), args.model, args.ema
        self.fmae_lr = args.fmae_lr
        self.args, self.run, self.notes = dict(vars(args)), run, []
        self.trained_on = training_vectors(args.id_weights, feature_norms)
        self.generator = Vec2Face(PRESETS[args.model], args.dropout).to(device, memory_format=torch.channels_last)
        self.discriminator = Discriminator(args.disc_width, args.disc_noise)
        self.discriminator.to(device, memory_format=torch.channels_last)
        options = {"lr": 0.0, "betas": BETAS, "weight_decay": args.weight_decay, "fused": True}
        groups = self._parameter_groups()
        for parameter in groups[0]["params"]:
            parameter.requires_grad_(args.fmae_lr > 0)
        self.optimizer = torch.optim.AdamW(groups, **options)
        self.optimizer_disc = torch.optim.AdamW(self.discriminator.parameters(), **options)
        self.scaler = precision.scaler(device)
        self.ema = self._averaged(self.generator.state_dict()) if args.ema else None
        self.step, self.last_step = 0, 0

    def _parameter_groups(self):
        """The weights before the image decoder, which take ``fmae_lr`` times the learning rate, and its own."""
        fmae, image_decoder = [], []
        for name, parameter in self.generator.named_parameters():
            (image_decoder if name.startswith("image_decoder.") else fmae).append(parameter)
        return [{"params": fmae}, {"params": image_decoder}]

    @staticmethod
    def _averaged(state):
        return {key: value.detach().clone() for key, value in state.items()}

    def update(self, lr, clip_grad, gan):
        """One optimiser step of the generator, and of the discriminator in the GAN phase; {name: gradient norm}."""
        norms = {"gradient_norm": self._step(self.optimizer, self.generator, (lr * self.fmae_lr, lr), clip_grad)}
        if gan:
            norms["gradient_norm_disc"] = self._step(self.optimizer_disc, self.discriminator, (lr,), clip_grad)
        self.scaler.update()
        if self.ema is not None:
            current = self.generator.state_dict()
            torch._foreach_lerp_([self.ema[key] for key in current], list(current.values()), 1 - self.ema_decay)
        return norms

    def _step(self, optimizer, model, lrs, clip_grad):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr
        self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
        self.scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        return norm

    def score(self, encoder, data, batch_size):
        """({name: score}, pictures) of held-out photos redrawn by the generator; see evaluation/reconstruction.py."""
        self.generator.eval()
        indices = np.linspace(0, len(data) - 1, min(SCORED, len(data))).astype(int)
        result = reconstruct(self.generator, encoder, data, indices, batch_size)
        self.generator.train()
        return result

    def save(self, name):
        """Write a checkpoint in one step. Raises UserError when there is no room; the one before stays."""
        content = own_form(self.generator.state_dict(), self.model_name, trained_on=self.trained_on)
        content |= {
            "model_disc": self.discriminator.state_dict(),
            "model_ema": self.ema,
            "optimizer_vec2face": self.optimizer.state_dict(),
            "optimizer_disc": self.optimizer_disc.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "last_step": self.last_step,
            "args": self.args,
            "run": self.run,
        }
        save_file(content, self.folder / name)

    def start_from(self, path):
        """Take a generator's weights, trained elsewhere. Raises UserError when it is not of --model."""
        self._take_generator(load_file(path), path)
        if self.ema is not None:
            self.ema = self._averaged(self.generator.state_dict())
        self.notes = [f"starting from {path}"]

    def _take_generator(self, content, path):
        state, released = generator_state(content, path)
        preset = preset_of(state, path)
        if preset != self.model_name:
            raise UserError(f"{path}: holds a {preset}; --model says {self.model_name}.")
        if architecture_of(content, preset, path) != PRESETS[preset]:
            raise UserError(
                f"{path}: its image decoder normalises in 32 groups; those of {preset} are wider now. Begin anew."
            )
        name_of = released_key if released else str
        fit(self.generator, state, path, f"a {preset} generator", name_of=name_of)

    def resume(self, content, path, steps_per_epoch):
        """Take everything from the content of a checkpoint of ours or of the released code.

        Raises UserError when it does not fit, or was made with settings that have to be the same.
        """
        released = is_released_training(content)
        self.notes = []
        if not released:
            self._check_parts(content, path)
            self.notes += check_settings(path, content, self.args, self.run, FIXED)
        self._take_generator(content, path)
        fit(self.discriminator, content["model_disc"], path, "the discriminator of this --disc_width")
        if released:
            models = (self.generator, self.discriminator, self.optimizer, self.optimizer_disc)
            content = continued(content, path, *models, steps_per_epoch)
            self.notes = [f"{path}: continuing a training of the released code after {content['epoch'] + 1} epochs"]
        load_optimizer(self.optimizer, content["optimizer_vec2face"], path)
        load_optimizer(self.optimizer_disc, content["optimizer_disc"], path)
        if content.get("scaler"):  # empty after a run that needed none, in bfloat16 or float32
            self.scaler.load_state_dict(content["scaler"])
        if self.ema is not None:
            averaged = content["model_ema"] or self.generator.state_dict()
            self.ema = {key: value.to(self.ema[key].device, copy=True) for key, value in averaged.items()}
        self.step = content["step"]

    @staticmethod
    def _check_parts(content, path):
        parts = ("model_disc", "optimizer_vec2face", "optimizer_disc", "step")
        missing = [key for key in parts if not isinstance(content, dict) or key not in content]
        if missing:
            raise UserError(
                f"{path}: not a training checkpoint (no {', '.join(missing)} in it), so it cannot be resumed. If it is "
                f"a generator, begin a new training from it with --start_from {path}."
            )
