"""The rows that AttrOP works on at a time, as tensors on its device: what an iteration found and what is kept of it."""

import math
from typing import NamedTuple

import numpy as np
import torch

from models.masking import ROWS, TokenMask
from models.transfer import Download, upload

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam (Kingma & Ba, 2015)


class Step:
    """One iteration: images (B, 3, 112, 112), per-row loss (B,), values and passed (1 + T, B), identity first."""

    def __init__(self, leaf, images, loss, values, passed):
        self.leaf, self.images, self.loss, self.values, self.passed = leaf, images, loss, values, passed

    def finite(self):
        return self.loss.isfinite() & self.images.flatten(1).isfinite().all(1)  # (B,)

    def accepted(self):
        return self.passed.all(0) & self.finite()  # (B,)

    def gradient(self, scale=None):
        """d loss_i / d vector_i for every row, (B, 512): rows do not touch each other, so one sum serves all.

        ``scale``: (B,) factors that the losses have on their way back.
        """
        scale = torch.ones_like(self.loss) if scale is None else scale
        (gradient,) = torch.autograd.grad((self.loss * scale).sum(), self.leaf)
        return gradient / scale[:, None]


class Best(NamedTuple):
    """A row's best iteration: vector (512,), image (3, 112, 112) or None, and of all targets value and passed."""

    vector: np.ndarray
    image: torch.Tensor | None
    values: list
    passed: list


class Batch:
    """The rows at work: their vectors, their Adam state, and the best iteration of each so far.

    All but ``rows`` and ``iterations`` lies on the device. ``scale``: of the loss on its way back, at first.
    """

    def __init__(self, size, device, scale=1):
        self.size, self.device, self.first_scale = size, device, scale
        self.rows = {}  # slot -> Row
        self.iterations = [0] * size
        self.vectors = torch.ones(size, 512, device=device)  # empty slots hold harmless vectors
        self.identities = torch.ones_like(self.vectors)
        self.mean, self.square = torch.zeros_like(self.vectors), torch.zeros_like(self.vectors)  # Adam's moments
        self.steps = torch.zeros(size, device=device)  # of Adam
        self.scale = torch.full((size,), float(scale), device=device)
        self.best_loss = torch.full((size,), math.inf, device=device)
        self.best_images = self.best_values = self.best_passed = None  # shaped by the first step
        self.best_vectors = torch.zeros_like(self.vectors)

    def fill(self, next_row):
        """Put waiting rows into the free slots; whether any row is at work. ``next_row()``: a Row, or None."""
        started = []  # (slot, vector, identity) in one array
        for slot in range(self.size):
            if slot not in self.rows and (row := next_row()) is not None:
                self.rows[slot], self.iterations[slot] = row, 0
                started.append(np.concatenate([[slot], row.vector, row.identity], dtype=np.float32))
        if started:
            packed = upload(torch.from_numpy(np.stack(started)), self.device)  # (S, 1 + 512 + 512)
            slots, vectors, identities = packed[:, 0].long(), *packed[:, 1:].chunk(2, dim=1)  # (S,), (S, 512) twice
            self.vectors[slots] = self.best_vectors[slots] = vectors
            self.identities[slots] = identities
            for state, first in (
                (self.mean, 0.0), (self.square, 0.0), (self.steps, 0.0), (self.scale, float(self.first_scale)),
                (self.best_loss, math.inf),
            ):  # fmt: skip
                state.index_fill_(0, slots, first)
            if self.best_values is not None:  # of the rows that had these slots before
                self.best_values.index_fill_(1, slots, math.nan)
                self.best_passed.index_fill_(1, slots, False)
        return bool(self.rows)

    def draw_masks(self, drop_ratio):
        """The masks of the next iteration, each row's from its own stream."""
        noise, rates = np.zeros((self.size, ROWS)), np.ones(self.size)
        for slot, row in self.rows.items():
            noise[slot], rates[slot] = row.draw_mask()
            self.iterations[slot] += 1
        return TokenMask.from_noise(torch.from_numpy(noise), drop_ratio, torch.from_numpy(rates)).to(self.device)

    def remember_best(self, step):
        """Keep the iteration with the lowest loss; one that is accepted beats all."""
        if self.best_images is None:
            self.best_images = torch.zeros_like(step.images)
            self.best_values = torch.full_like(step.values, math.nan)
            self.best_passed = torch.zeros_like(step.passed)
        loss = torch.where(step.accepted(), -math.inf, step.loss.detach())
        better = step.finite() & (loss < self.best_loss)  # (B,)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best_images = torch.where(better[:, None, None, None], step.images, self.best_images)
        self.best_vectors = torch.where(better[:, None], step.leaf.detach(), self.best_vectors)
        self.best_values = torch.where(better, step.values, self.best_values)
        self.best_passed = torch.where(better, step.passed, self.best_passed)

    def best_of(self, slots):
        """The Best of each of these slots, in one transfer."""
        index = upload(torch.tensor(slots), self.device)  # (S,)
        parts = [self.best_loss[:, None], self.best_values.T, self.best_passed.T, self.best_vectors, self.best_images]
        ends = np.cumsum([part[0].numel() for part in parts])
        packed = torch.cat([part[index].flatten(1).float() for part in parts], dim=1)  # (S, all sizes)
        for row in Download(packed).wait()[0].numpy():
            (loss,), values, passed, vector, image = np.split(row.copy(), ends[:-1])
            image = torch.from_numpy(image.reshape(self.best_images.shape[1:]))  # (3, 112, 112)
            yield Best(vector, image if loss < math.inf else None, values.tolist(), passed.tolist())

    def descend(self, step, lr):
        """One Adam step of every row, each at its own step count.

        A row whose gradient is not finite stays where it is and, as float16 may have overflowed, halves its scale.
        """
        gradient = step.gradient(self.scale)
        finite = gradient.isfinite().all(1)  # (B,)
        self.scale = torch.where(finite, self.scale, self.scale / 2)
        self.steps = self.steps + finite
        moves = finite[:, None]  # (B, 1)
        self.mean = torch.where(moves, BETAS[0] * self.mean + (1 - BETAS[0]) * gradient, self.mean)
        self.square = torch.where(moves, BETAS[1] * self.square + (1 - BETAS[1]) * gradient**2, self.square)
        steps = self.steps.clamp(min=1)[:, None]  # (B, 1)
        mean, square = self.mean / (1 - BETAS[0] ** steps), self.square / (1 - BETAS[1] ** steps)
        vectors = self.vectors - lr * mean / (square.sqrt() + EPSILON)
        self.vectors = torch.where(moves, vectors, self.vectors)
