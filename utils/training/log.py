"""How a training run reports: console, log.jsonl and TensorBoard."""

import json
import time
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from utils.data.images import contact_sheet
from utils.training.folder import LOG


class Log:
    """Means since the last line, over all processes: console, log.jsonl and TensorBoard.

    A mean is over the steps that have the term: some come once an update, some in the GAN phase only.
    ``shown``: names of the terms in the console line, where there are such.
    """

    def __init__(self, args, world, device, step, last_step, shown):
        self.world, self.device, self.last_step, self.shown = world, device, last_step, shown
        self.folder = Path(args.output_dir)
        self._begin_window()
        self.first = {}  # what goes with the first line that this process logs
        self.board = SummaryWriter(args.log_dir or args.output_dir, purge_step=step) if world.is_main else None
        self.path = self.folder / LOG
        if world.is_main and self.path.exists():  # lines of steps that will be done again
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step] if step else []
            self.path.write_text("".join(line + "\n" for line in kept))
        if step and step >= last_step:
            self.say(f"nothing left to do: this run has made all of its {last_step:.0f} steps; raise --epochs to go on")
        elif step:
            self.say(f"resumed at step {step} of {last_step}")
        elif args.resume:
            self.say(f"{args.resume}: no checkpoint there yet: starting anew")

    def begin(self, precision):
        """Say in which number formats the run computes, and log them with its first line."""
        self.first = {"number_formats": precision.describe()}
        if precision.note:
            self.say(f"note: {precision.note}")
        self.say(f"computing with {precision}")

    def check_warmup(self, warmup_steps, flag):
        """Warn when the warm-up is at least half of the run. ``flag``: how the user set it."""
        if self.last_step > 2 * warmup_steps:
            return
        share = self.last_step / warmup_steps
        part = "all" if share <= 1 else f"{warmup_steps:.0f}"
        reached = f" and the learning rate only reaches {share:.1%} of its value" if share < 1 else ""
        self.say(
            f"warning: {part} of the {self.last_step:.0f} steps are warm-up ({flag}){reached}: a short run learns more "
            "with a shorter warm-up."
        )

    def _begin_window(self):
        self.sums, self.counts, self.steps, self.images, self.since = {}, Counter(), 0, 0, time.monotonic()

    def add(self, terms, images):
        """Take in the terms {name: scalar} of a step on so many images."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.counts.update(terms.keys())
        self.steps, self.images = self.steps + 1, self.images + images

    def write(self, step, epoch, lr):
        """Write a line with the means since the last one."""
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
            self.say(f"step {step}/{self.last_step:.0f} epoch {epoch} {losses} lr {lr:.2e} {speed}")
        self._begin_window()

    def scores(self, kind, scores, step, epoch):
        """Figures {name: number} on data not trained on, of some ``kind``."""
        self._append({"step": step, "epoch": epoch} | {f"{kind}/{name}": value for name, value in scores.items()})
        self.say(f"epoch {epoch} {kind}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    def sheet(self, title, rows, step):
        """Rows of (112, 112, 3) uint8 images."""
        self.board.add_image(title, contact_sheet(rows), step, dataformats="HWC")

    def picture(self, real, fake, step):
        """Originals over reconstructions."""
        grid = torch.cat(
            [torch.cat(list(x[:8].float().clip(-1, 1).cpu()), dim=2) for x in (real, fake.detach())], dim=1
        )
        self.board.add_image("originals over reconstructions", (grid + 1) / 2, step)  # (3, 224, 896)

    def _append(self, line):
        with open(self.path, "a") as file:
            file.write(json.dumps(line | self.first) + "\n")
        self.first = {}
        for name, value in line.items():
            self.board.add_scalar(name, value, line["step"])

    def say(self, text):
        if self.world.is_main:
            print(text, flush=True)

    def close(self):
        if self.board:
            self.board.close()
