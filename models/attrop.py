"""AttrOP: gradient descent on the vector until the decoded image has the wanted attributes (paper section 3.3).

Every row of the batch is its own optimisation: it has its own Adam state, retires when *it* passes
(or ends), and the next waiting row takes its slot at once, so the batch stays full.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from models.attrop_batch import Batch, Step
from models.transfer import Download

HALF_SCALE = 1024  # of the loss in float16, where small gradients vanish; halved for a row whose gradient overflows


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
    Empty slots in the batch are filled, so that results do not depend on how many rows wait.
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

    def run(self, rows: Iterable[Row]) -> Iterator[Result]:
        """Iterate over Results, in the order in which rows end. ``rows`` are read as slots of the batch get free."""
        waiting = iter(rows)
        return self.run_queue(lambda: next(waiting, None))

    def run_queue(self, next_row: Callable[[], Row | None]) -> Iterator[Result]:
        """The same for rows that a queue hands out: ``next_row()`` is the next one, or None when none waits.

        It is asked in every iteration that has free slots, and the work ends when no row is left in the batch.
        """
        parameter = next(self.generator.parameters())
        batch = Batch(self.batch_size, parameter.device, HALF_SCALE if parameter.dtype == torch.float16 else 1)
        on_gpu = parameter.device.type == "cuda"
        while batch.fill(next_row):
            step = self.evaluate(batch.vectors, batch.identities, batch.draw_masks(self.drop_ratio))
            batch.remember_best(step)
            flags = Download(torch.stack([step.finite(), step.accepted()]))  # the one transfer of an iteration
            if on_gpu:  # which goes backward while the host reads the flags
                batch.descend(step, self.lr)
            ended = self._endings(batch, *flags.wait()[0].tolist())
            results = self._results(batch, ended) if ended else []
            if batch.rows and not on_gpu:
                batch.descend(step, self.lr)
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
        return Step(leaf, images.detach(), loss, torch.stack([similarity, *values]).detach(), torch.stack(passed))

    def _each_model_once(self, images):
        outputs = {}
        for model in (self.encoder, *(target.model for target in self.targets)):
            if id(model) not in outputs:
                outputs[id(model)] = model(images)
            yield outputs[id(model)]

    def _endings(self, batch, finite, accepted):
        """{slot: why} of the rows that end here: "" for an accepted row, None when their iterations are used up."""
        ended = {}
        for slot in sorted(batch.rows):
            if not finite[slot]:
                ended[slot] = f"not finite at iteration {batch.iterations[slot]}"
            elif accepted[slot]:
                ended[slot] = ""
            elif batch.iterations[slot] == self.max_iters:
                ended[slot] = None
        return ended

    def _results(self, batch, ended):
        """Results of the rows that end, whose slots get free. ``ended``: see _endings."""
        results = []
        for (slot, reason), best in zip(ended.items(), batch.best_of(list(ended)), strict=True):
            row, iterations = batch.rows.pop(slot), batch.iterations[slot]
            missed = tuple(name for name, passed in zip(self.target_names, best.passed, strict=True) if not passed)
            if reason is None:
                reason = f"{', '.join(missed)} missed after {iterations} iterations"
            similarity, *values = best.values
            results.append(
                Result(
                    key=row.key,
                    vector=best.vector,
                    image=best.image,
                    accepted=not reason,
                    missed=missed if reason else (),
                    iterations=iterations,
                    id_similarity=similarity,
                    values={target.name: value for target, value in zip(self.targets, values, strict=True)},
                    reason=reason,
                )
            )
        return results
