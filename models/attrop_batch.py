"""The batch of rows that AttrOP optimises: their vectors, Adam states and best iterations, as tensors on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from models.masking import ROWS, TokenMask
from models.transfer import Download, upload

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam (Kingma & Ba, 2015)


@dataclass
class Row:
    """One vector to optimise.

    ``key``: any label, copied to the Result. ``vector`` (512,): the starting point. ``identity`` (512,): the identity
    vector that the feature of the image is compared with. ``draw_mask()`` draws the mask of the next iteration as noise
    (49,) and a mask rate.
    """

    key: Any
    vector: np.ndarray
    identity: np.ndarray
    draw_mask: Callable[[], tuple[np.ndarray, float]]


class Step:
    """The results of one iteration of a batch with T targets besides the identity.

    ``leaf`` (B, 512): the vectors, with gradients. ``images`` (B, 3, 112, 112) in [-1, 1]. ``loss`` (B,). ``values``
    and ``passed`` (1 + T, B): attributes, and whether their targets are reached; the identity comes first.
    """

    def __init__(
        self,
        leaf: torch.Tensor,
        images: torch.Tensor,
        loss: torch.Tensor,
        values: torch.Tensor,
        passed: torch.Tensor,
    ):
        self.leaf, self.images, self.loss, self.values, self.passed = leaf, images, loss, values, passed

    def finite(self) -> torch.Tensor:
        """Whether loss and image of each row are finite, (B,) bool."""
        return self.loss.isfinite() & self.images.flatten(1).isfinite().all(1)  # (B,)

    def accepted(self) -> torch.Tensor:
        """Whether each row is finite and reaches all targets, (B,) bool."""
        return self.passed.all(0) & self.finite()  # (B,)

    def gradient(self, scale: torch.Tensor | None = None) -> torch.Tensor:
        """d loss_i / d vector_i of each row i, (B, 512): rows are independent, so the sum of the losses is derived.

        ``scale`` (B,): loss scales of the backward pass; the gradient is divided by them again.
        """
        scale = torch.ones_like(self.loss) if scale is None else scale
        (gradient,) = torch.autograd.grad((self.loss * scale).sum(), self.leaf)
        return gradient / scale[:, None]


class Best(NamedTuple):
    """The best iteration of a row.

    ``vector`` (512,); ``image`` (3, 112, 112), or None if no iteration was finite; ``values`` and ``passed``: attribute
    and whether it passed, for each target.
    """

    vector: np.ndarray
    image: torch.Tensor | None
    values: list[float]
    passed: list[float]


class Iterate(NamedTuple):
    """A row in the middle of its optimisation.

    ``key``: that of the Row; ``iteration``: 1 is the vector that the row began with; ``image`` (3, 112, 112) in
    [-1, 1], on the CPU; ``values``: "id_similarity" and the attributes of the image by name of target.
    """

    key: Any
    iteration: int
    image: torch.Tensor
    values: dict[str, float]


class Batch:
    """The rows in the slots of a batch, with their vectors, Adam states and best iterations so far.

    All but ``rows`` and ``iterations`` are tensors on ``device``. ``scale``: initial loss scale of the backward pass.
    """

    def __init__(self, size: int, device: torch.device, scale: float = 1):
        self.size, self.device, self.first_scale = size, device, scale
        self.rows: dict[int, Row] = {}  # by slot
        self.iterations = [0] * size
        self.vectors = torch.ones(size, 512, device=device)  # constant in free slots
        self.identities = torch.ones_like(self.vectors)
        self.mean, self.square = torch.zeros_like(self.vectors), torch.zeros_like(self.vectors)  # Adam
        self.steps = torch.zeros(size, device=device)  # number of Adam steps
        self.scale = torch.full((size,), float(scale), device=device)
        self.best_loss = torch.full((size,), math.inf, device=device)
        self.best_images = self.best_values = self.best_passed = None  # made in the first iteration
        self.best_vectors = torch.zeros_like(self.vectors)

    def fill(self, next_row: Callable[[], Row | None]) -> bool:
        """Put waiting rows into free slots and return whether the batch has any row. ``next_row()``: a Row or None."""
        started = []  # arrays (1 + 512 + 512,): slot, vector, identity
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
            if self.best_values is not None:  # those of the previous rows in these slots
                self.best_values.index_fill_(1, slots, math.nan)
                self.best_passed.index_fill_(1, slots, False)
        return bool(self.rows)

    def draw_masks(self, drop_ratio: float) -> TokenMask:
        """The masks of the next iteration, each drawn from the random stream of its row."""
        noise, rates = np.zeros((self.size, ROWS)), np.ones(self.size)
        for slot, row in self.rows.items():
            noise[slot], rates[slot] = row.draw_mask()
            self.iterations[slot] += 1
        return TokenMask.from_noise(torch.from_numpy(noise), drop_ratio, torch.from_numpy(rates)).to(self.device)

    def iterates(self, step: Step, every: int, names: Sequence[str]) -> list[Iterate]:
        """The Iterates of the rows in iteration 1, 1 + every, 1 + 2 every, ... ``names``: of the attributes."""
        slots = [slot for slot in sorted(self.rows) if (self.iterations[slot] - 1) % every == 0]
        if not slots:
            return []
        images, values = step.images[slots].float().cpu(), step.values.T[slots].tolist()  # (S, 3, 112, 112), (S, 1 + T)
        return [
            Iterate(self.rows[slot].key, self.iterations[slot], image, dict(zip(names, row, strict=True)))
            for slot, image, row in zip(slots, images, values, strict=True)
        ]

    def remember_best(self, step: Step) -> None:
        """Update the best iteration of each row: the accepted one, or else the one with the lowest loss."""
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

    def best_of(self, slots: Sequence[int]) -> Iterator[Best]:
        """Yield the Best of each slot, after one transfer for all."""
        index = upload(torch.tensor(slots), self.device)  # (S,)
        parts = [self.best_loss[:, None], self.best_values.T, self.best_passed.T, self.best_vectors, self.best_images]
        ends = np.cumsum([part[0].numel() for part in parts])
        packed = torch.cat([part[index].flatten(1).float() for part in parts], dim=1)  # (S, all sizes)
        for row in Download(packed).wait()[0].numpy():
            (loss,), values, passed, vector, image = np.split(row.copy(), ends[:-1])
            image = torch.from_numpy(image.reshape(self.best_images.shape[1:]))  # (3, 112, 112)
            yield Best(vector, image if loss < math.inf else None, values.tolist(), passed.tolist())

    def descend(self, step: Step, lr: float) -> None:
        """Make one Adam step in each row, with its own step count t and gradient g:

            m = b1 m + (1 - b1) g,   s = b2 s + (1 - b2) g^2,   v -= lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)

        A row with a non-finite gradient is left unchanged, and its loss scale is halved, as float16 may have
        overflowed.
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
