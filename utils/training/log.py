"""The log of a training: console, log.jsonl and TensorBoard."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from utils.data.images import contact_sheet
from utils.runtime.distributed import Distributed
from utils.runtime.durable import atomic_write
from utils.runtime.precision import Precision
from utils.training.folder import LOG

PICTURED = 8  # images in a row


class Log:
    """Means of the training terms since the last line, over all processes.

    A mean is taken over the steps that have the term: some terms exist once per update, some in the GAN phase only.
    ``step``: steps done before this run; of an earlier log, the lines up to there are kept. ``shown``: terms that the
    console line shows where they exist. ``log_dir``: TensorBoard's folder (default: ``output_dir``).
    """

    def __init__(
        self,
        output_dir: Path | str,
        world: Distributed,
        step: int,
        last_step: int,
        shown: Sequence[str],
        log_dir: Path | str | None = None,
    ):
        self.world, self.step, self.last_step, self.shown = world, step, last_step, shown
        self.path = Path(output_dir) / LOG
        self._begin_window()
        self.first = {}  # fields that are added to the first line that this process writes
        self.board = SummaryWriter(log_dir or output_dir, purge_step=step) if world.is_main else None
        if world.is_main and self.path.exists():  # lines of steps that will be done again
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step] if step else []
            atomic_write(self.path, "".join(line + "\n" for line in kept))

    def begin(self, precision: Precision, resume: Path | str | None = None, notes: Iterable[str] = ()) -> None:
        """Print where the run starts, its number formats, which go into the first line as well, and the notes.

        ``resume``: what the user gave to continue from, if anything.
        """
        if self.step and self.step >= self.last_step:
            self.say(
                f"nothing left to do: this run has made all of its {self.last_step} steps; raise --epochs to go on"
            )
        elif self.step:
            self.say(f"resumed at step {self.step} of {self.last_step}")
        elif resume:
            self.say(f"{resume}: no checkpoint there yet: starting anew")
        self.first = {"number_formats": precision.describe()}
        if precision.note:
            self.say(f"note: {precision.note}")
        self.say(f"computing with {precision}")
        for note in notes:
            self.say(note)

    def check_warmup(self, warmup_steps: float, flag: str) -> None:
        """Warn when the warm-up is at least half of the run. ``flag``: the flag and value that set it."""
        if self.last_step > 2 * warmup_steps:
            return
        fraction = self.last_step / warmup_steps
        part = "all" if fraction <= 1 else f"{warmup_steps:.0f}"
        reached = f" and the learning rate only reaches {fraction:.1%} of its value" if fraction < 1 else ""
        self.say(
            f"warning: {part} of the {self.last_step} steps are warm-up ({flag}){reached}: a short run learns more "
            "with a shorter warm-up."
        )

    def _begin_window(self):
        self.sums, self.counts, self.steps, self.images, self.since = {}, Counter(), 0, 0, time.monotonic()

    def add(self, terms: Mapping[str, torch.Tensor], images: int) -> None:
        """Add the terms {name: scalar} of a step and its number of images to the current means."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.counts.update(terms.keys())
        self.steps, self.images = self.steps + 1, self.images + images

    def write(self, step: int, epoch: int, lr: float) -> None:
        """Write a line with the means since the last one; all processes must call it."""
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name] for name in names])  # (T,)
        if self.world.size > 1:
            dist.all_reduce(sums)
        counts = [self.counts[name] * self.world.size for name in names]
        means = [value / count for value, count in zip(sums.tolist(), counts, strict=True)]
        seconds = time.monotonic() - self.since
        rate = self.images * self.world.size / seconds
        if self.world.is_main:
            line = {"step": step, "epoch": epoch, "lr": lr, "images_per_second": round(rate, 2)}
            line |= {name: round(value, 6) for name, value in zip(names, means, strict=True)}
            self._append(line)
            left = (self.last_step - step) * seconds / self.steps
            losses = " ".join(f"{name} {line[name]:.4f}" for name in self.shown if name in line)
            speed = f"{rate:.1f} images/s, {left / 60:.0f} min left"
            self.say(f"step {step}/{self.last_step} epoch {epoch} {losses} lr {lr:.2e} {speed}")
        self._begin_window()

    def scores(self, kind: str, scores: Mapping[str, float], step: int, epoch: int, weights: str | None = None) -> None:
        """Write scores {name: number} on data that is not trained on.

        ``kind``: prefix of the names in the log. ``weights``: which weights were scored, "averaged" or "last", where
        there is a choice.
        """
        line = {"step": step, "epoch": epoch} | {f"{kind}/{name}": value for name, value in scores.items()}
        self._append(line, {f"{kind}/weights": weights} if weights else {})
        about = f" ({weights} weights)" if weights else ""
        self.say(f"epoch {epoch} {kind}{about}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    def held_out(
        self, scores: Mapping[str, float], pictures: Sequence[Sequence[np.ndarray]], title: str, step: int, epoch: int,
        averaged: bool,
    ) -> None:  # fmt: skip
        """Write scores and pictures of held-out photos. ``averaged``: whether the averaged weights were scored."""
        self.scores("held_out", scores, step, epoch, "averaged" if averaged else "last")
        self.sheet(title, pictures, step)

    def sheet(self, title: str, rows: Sequence[Sequence[np.ndarray]], step: int) -> None:
        """Add rows of images (112, 112, 3) uint8 to TensorBoard."""
        self.board.add_image(title, contact_sheet(rows), step, dataformats="HWC")

    def picture(self, real: torch.Tensor, fake: torch.Tensor, step: int) -> None:
        """Add photos and, below them, their reconstructions, (B, 3, 112, 112) in [-1, 1], to TensorBoard."""
        rows = [torch.cat(list(x[:PICTURED].float().clip(-1, 1).cpu()), dim=2) for x in (real, fake.detach())]
        grid = torch.cat(rows, dim=1)  # (3, 224, 896)
        self.board.add_image("originals over reconstructions", (grid + 1) / 2, step)

    def _append(self, line, texts=None):
        """Write a line of numbers, and ``texts``, which TensorBoard has no curves for."""
        with open(self.path, "a") as file:
            file.write(json.dumps(line | (texts or {}) | self.first) + "\n")
        self.first = {}
        for name, value in line.items():
            self.board.add_scalar(name, value, line["step"])

    def say(self, text: str) -> None:
        """Print a line, on rank 0 alone."""
        if self.world.is_main:
            print(text, flush=True)

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.board:
            self.board.close()
