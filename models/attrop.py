"""AttrOP: gradient descent on the vector until the decoded image has the wanted attributes (paper section 3.3).

Every row of the batch is its own optimisation: it has its own Adam state, retires when *it* passes
(or ends), and the next waiting row takes its place at once, so the batch stays full.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from models.vec2face import TokenMask

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam (Kingma & Ba, 2015)
HALF_SCALE = 1024  # keeps small float16 gradients from vanishing on their way back


@dataclass(frozen=True)
class Target:
    """One wanted attribute.

    ``model``: any callable on images (N, 3, 112, 112) in [-1, 1]; targets that share a model share
    its forward pass. ``read``: the model's output -> (N,) values. ``penalty``: values -> (N,) >= 0,
    added to the loss with ``weight``; a row passes when its penalty is at most ``tolerance``.
    """

    name: str
    model: Callable
    penalty: Callable
    tolerance: float
    weight: float = 1.0
    read: Callable = lambda output: output


def at_least(name, model, value, tolerance, **options):
    """The attribute should be ``value`` or more."""
    return Target(name, model, lambda x: F.relu(value - x), tolerance, **options)


def close_to(name, model, value, tolerance, **options):
    """The attribute should be ``value``."""
    return Target(name, model, lambda x: (x - value).abs(), tolerance, **options)


def quality_target(encoder, quality, tolerance=1.0):
    """Face quality: the norm of the (MagFace) feature, wanted at least ``quality``."""
    return at_least("quality", encoder, quality, tolerance, read=lambda features: features.norm(dim=1))


def yaw_target(pose, degrees, signed=False, tolerance=5.0):
    """Yaw in degrees. Unsigned, as released, either side will do: | |yaw| - degrees |."""

    def penalty(yaw):
        return ((yaw if signed else yaw.abs()) - degrees).abs()

    return Target("yaw", pose, penalty, tolerance, read=lambda angles: angles[:, 1].clip(-90, 90))


def pitch_target(pose, degrees, tolerance=5.0):
    """Pitch in degrees, signed."""
    return close_to("pitch", pose, degrees, tolerance, read=lambda angles: angles[:, 0])


@dataclass
class Row:
    """One vector to work on. ``vector``: where to start, ``identity``: whom it must resemble, both (512,).

    ``draw_mask()`` gives the mask of the next iteration: noise (49,) and mask rate.
    """

    key: Any
    vector: np.ndarray
    identity: np.ndarray
    draw_mask: Callable


@dataclass
class Result:
    """What became of a row: the image that was checked and the vector it was decoded from.

    Accepted: the iteration that passed. Otherwise the iteration with the lowest loss. ``values``: the targets'
    attributes of that image, by name. When not one image was finite, ``image`` is None, ``id_similarity`` and
    ``values`` are NaN, and all targets count as missed.
    """

    key: Any
    vector: np.ndarray  # (512,)
    image: torch.Tensor | None  # (3, 112, 112) in [-1, 1], on the CPU
    accepted: bool
    iterations: int
    id_similarity: float
    values: dict = field(default_factory=dict)
    missed: tuple = ()  # names of the targets not reached
    reason: str = ""


class AttrOP:
    """Runs rows through the optimisation, ``batch_size`` at a time.

    ``generator``, ``encoder``: frozen models. ``drop_ratio``: share of dropped feature-map rows.
    Identity is always a target: 100 * (1 - cosine similarity), passed at distance <= ``id_tolerance``.
    Empty places in the batch are filled, so that results do not depend on how many rows wait.
    ``on_iteration(results)`` is called after each iteration of the batch with the Results of the rows that ended.
    """

    def __init__(
        self, generator, encoder, targets=(), *, batch_size, drop_ratio=0.1, max_iters=100, lr=0.1, id_weight=100.0,
        id_tolerance=0.3, on_iteration=lambda results: None,
    ):  # fmt: skip
        if batch_size < 1 or max_iters < 1:
            raise ValueError("batch_size and max_iters must be at least 1")
        self.generator, self.encoder, self.targets = generator, encoder, list(targets)
        self.batch_size, self.drop_ratio, self.max_iters = batch_size, drop_ratio, max_iters
        self.lr, self.id_weight, self.id_tolerance = lr, id_weight, id_tolerance
        self.on_iteration = on_iteration

    @property
    def target_names(self):
        """Names of all targets, the identity's first."""
        return ["id_similarity", *(target.name for target in self.targets)]

    def run(self, rows):
        """Iterate over Results, in the order in which rows end. ``rows``: iterable of Row, read as places get free."""
        waiting = iter(rows)
        batch = Batch(self.batch_size, next(self.generator.parameters()).device)
        while batch.fill(waiting):
            step = self.evaluate(batch.vectors, batch.identities, batch.draw_masks(self.drop_ratio))
            batch.remember_best(step)
            results = [self._result(batch, place, reason) for place, reason in self._endings(batch, step)]
            if batch.rows:
                batch.descend(step.gradient(), self.lr)
            del step  # with its graph, which would lie in memory while the caller works on the results
            self.on_iteration(results)
            yield from results

    def evaluate(self, vectors, identities, mask):
        """Decode and measure one iteration; ``vectors`` and ``identities`` (B, 512), ``mask`` of B samples."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = vectors.clone().requires_grad_()
            images = self.generator(leaf, mask).images.clip(-1, 1)  # (B, 3, 112, 112)
            features, *outputs = self._each_model_once(images)
            similarity = F.cosine_similarity(features, identities)  # (B,)
            values = [target.read(output).float() for target, output in zip(self.targets, outputs, strict=True)]
            penalties = [target.penalty(value) for target, value in zip(self.targets, values, strict=True)]
            loss = self.id_weight * (1 - similarity)  # (B,)
            for target, penalty in zip(self.targets, penalties, strict=True):
                loss = loss + target.weight * penalty
        passed = [1 - similarity <= self.id_tolerance]
        passed += [penalty <= target.tolerance for target, penalty in zip(self.targets, penalties, strict=True)]
        scale = HALF_SCALE if next(self.generator.parameters()).dtype == torch.float16 else 1
        return Step(
            leaf, images.detach(), loss, torch.stack([similarity, *values]).detach(), torch.stack(passed), scale
        )

    def _each_model_once(self, images):
        outputs = {}
        for model in (self.encoder, *(target.model for target in self.targets)):
            if id(model) not in outputs:
                outputs[id(model)] = model(images)
            yield outputs[id(model)]

    def _endings(self, batch, step):
        """(place, reason) of the rows that end here; the reason of an accepted row is empty."""
        finite, accepted = torch.stack([step.finite(), step.accepted()]).tolist()  # the one transfer of an iteration
        for place, iterations in enumerate(batch.iterations):
            if place not in batch.rows:
                continue
            if not finite[place]:
                yield place, f"not finite at iteration {iterations}"
            elif accepted[place]:
                yield place, ""
            elif iterations == self.max_iters:
                yield place, f"{', '.join(self._missed(batch, place))} missed after {iterations} iterations"

    def _missed(self, batch, place):
        passed = batch.best_passed[:, place].tolist()
        return tuple(name for name, reached in zip(self.target_names, passed, strict=True) if not reached)

    def _result(self, batch, place, reason):
        row, known = batch.rows.pop(place), bool(batch.best_loss[place] < math.inf)
        similarity, *values = batch.best_values[:, place].tolist()
        return Result(
            key=row.key,
            vector=batch.best_vectors[place].cpu().numpy().copy(),  # the place is used again
            image=batch.best_images[place].clone().cpu() if known else None,
            accepted=not reason,
            missed=self._missed(batch, place) if reason else (),
            iterations=batch.iterations[place],
            id_similarity=similarity,
            values={target.name: value for target, value in zip(self.targets, values, strict=True)},
            reason=reason,
        )


class Step:
    """One iteration: images (B, 3, 112, 112), per-row loss (B,), values and passed (1 + T, B), identity first."""

    def __init__(self, leaf, images, loss, values, passed, scale=1):
        self.leaf, self.images, self.loss, self.values, self.passed = leaf, images, loss, values, passed
        self.scale = scale

    def finite(self):
        return self.loss.isfinite() & self.images.flatten(1).isfinite().all(1)  # (B,)

    def accepted(self):
        return self.passed.all(0) & self.finite()  # (B,)

    def gradient(self):
        """d loss_i / d vector_i for every row, (B, 512): rows do not touch each other, so one sum serves all."""
        (gradient,) = torch.autograd.grad(self.loss.sum() * self.scale, self.leaf)
        return gradient / self.scale


class Batch:
    """The rows at work: their vectors, their Adam state, and the best iteration of each so far."""

    def __init__(self, size, device):
        self.size, self.device = size, device
        self.rows = {}  # place -> Row
        self.iterations = [0] * size
        self.vectors = torch.ones(size, 512, device=device)  # empty places hold harmless vectors
        self.identities = torch.ones_like(self.vectors)
        self.mean, self.square = torch.zeros_like(self.vectors), torch.zeros_like(self.vectors)  # Adam's moments
        self.best_loss = torch.full((size,), math.inf, device=device)
        self.best_images = self.best_values = self.best_passed = None  # shaped by the first step
        self.best_vectors = torch.zeros_like(self.vectors)

    def fill(self, waiting):
        """Put waiting rows on the free places; whether any row is at work."""
        for place in range(self.size):
            if place not in self.rows and (row := next(waiting, None)) is not None:
                self.rows[place], self.iterations[place] = row, 0
                self.vectors[place] = self.best_vectors[place] = torch.from_numpy(row.vector).float()
                self.identities[place] = torch.from_numpy(row.identity).float()
                self.mean[place], self.square[place], self.best_loss[place] = 0, 0, math.inf
                if self.best_values is not None:  # the row that had this place before
                    self.best_values[:, place], self.best_passed[:, place] = math.nan, False
        return bool(self.rows)

    def draw_masks(self, drop_ratio):
        """The masks of the next iteration, each row's from its own stream."""
        noise, rates = np.zeros((self.size, 49)), np.ones(self.size)
        for place, row in self.rows.items():
            noise[place], rates[place] = row.draw_mask()
            self.iterations[place] += 1
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

    def descend(self, gradient, lr):
        """One Adam step of every row, each at its own step count."""
        steps = torch.tensor(self.iterations, dtype=torch.float32, device=self.device).clamp(min=1)[:, None]  # (B, 1)
        self.mean = BETAS[0] * self.mean + (1 - BETAS[0]) * gradient
        self.square = BETAS[1] * self.square + (1 - BETAS[1]) * gradient**2
        mean, square = self.mean / (1 - BETAS[0] ** steps), self.square / (1 - BETAS[1] ** steps)
        self.vectors = self.vectors - lr * mean / (square.sqrt() + EPSILON)
