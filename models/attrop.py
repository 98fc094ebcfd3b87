"""AttrOP: gradient descent on a vector until its image has the target attributes (paper section 3.3).

Each row of a batch is an optimisation of its own: it has its own Adam state and leaves the batch as soon as it passes
all targets or has used up its iterations. The next waiting row takes over its slot, so the batch stays full.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from models.attrop_batch import Batch, Iterate, Row, Step
from models.masking import TokenMask
from models.transfer import Download

# Factor of the loss in float16, in which small gradients underflow. It is halved for a row whose gradient overflows.
HALF_SCALE = 1024

TensorFunction = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Target:
    """A target for one attribute of an image.

    ``model``: a function of images (N, 3, 112, 112) in [-1, 1]; targets with the same model share its forward pass.
    ``read``: computes the attribute (N,) from the output of the model. ``penalty``: computes a penalty (N,) >= 0 from
    the attribute. ``weight``: weight of the penalty in the loss. ``tolerance``: largest penalty that passes.
    """

    name: str
    model: TensorFunction
    penalty: TensorFunction
    tolerance: float
    weight: float = 1.0
    read: TensorFunction = lambda output: output


def at_least(name: str, model: TensorFunction, value: float, tolerance: float, **options: Any) -> Target:
    """A target of ``value`` or more: the penalty is relu(value - x). ``options``: further fields of Target."""
    return Target(name, model, lambda x: F.relu(value - x), tolerance, **options)


def close_to(name: str, model: TensorFunction, value: float, tolerance: float, **options: Any) -> Target:
    """A target of ``value``: the penalty is |x - value|. ``options``: further fields of Target."""
    return Target(name, model, lambda x: (x - value).abs(), tolerance, **options)


def quality_target(encoder: TensorFunction, quality: float, tolerance: float = 1.0) -> Target:
    """Face quality of at least ``quality``, measured as the norm of the feature of a MagFace ``encoder``."""
    return at_least("quality", encoder, quality, tolerance, read=lambda features: features.norm(dim=1))


def yaw_target(pose: TensorFunction, degrees: float, signed: bool = False, tolerance: float = 5.0) -> Target:
    """Yaw of ``degrees``. An unsigned target, as in the released code, accepts both sides: | |yaw| - degrees |.

    ``pose``: images -> pitch, yaw and roll (N, 3) in degrees. The yaw is clipped to [-90, 90].
    """

    def penalty(yaw: torch.Tensor) -> torch.Tensor:
        return ((yaw if signed else yaw.abs()) - degrees).abs()

    return Target("yaw", pose, penalty, tolerance, read=lambda angles: angles[:, 1].clip(-90, 90))


def pitch_target(pose: TensorFunction, degrees: float, tolerance: float = 5.0) -> Target:
    """Signed pitch of ``degrees``. ``pose``: images -> pitch, yaw and roll (N, 3) in degrees."""
    return close_to("pitch", pose, degrees, tolerance, read=lambda angles: angles[:, 0])


@dataclass
class Result:
    """The image of a row, the vector from which it was decoded, and its measured attributes.

    They come from the iteration that passed or, if none did, from the one with the lowest loss. ``values``: attributes
    of the image by name of target. If no image was finite, ``image`` is None, ``id_similarity`` and ``values`` are NaN,
    and all targets are missed. ``reason``: why the row was not accepted.
    """

    key: Any
    vector: np.ndarray  # (512,)
    image: torch.Tensor | None  # (3, 112, 112) in [-1, 1], on the CPU
    accepted: bool
    iterations: int
    id_similarity: float
    values: dict[str, float] = field(default_factory=dict)
    missed: tuple[str, ...] = ()  # names of the targets that were not reached
    reason: str = ""


class AttrOP:
    """Optimises rows, ``batch_size`` at a time.

    The loss of a row is, with x the image, v the identity vector, and w_t and p_t the weight and penalty of target t,

        id_weight * (1 - cos(encoder(x), v)) + sum_t w_t * p_t(x)

    ``generator``: a frozen Vec2Face. ``encoder``: a frozen face encoder. ``drop_ratio``: fraction of the rows of the
    feature map that are dropped. ``lr``: learning rate of Adam. ``id_tolerance``: largest cosine distance to the
    identity vector that passes. ``on_iteration(results)``: called after each iteration of the batch with the Results of
    the rows that ended. ``on_iterates(iterates)``: called with the Iterates of the rows that are in their iterations 1,
    1 + ``iterates_every`` and so on; watching them changes no result. Free slots of the batch are filled with a
    constant vector, so that results do not depend on the number of waiting rows.

    Raises ValueError for a batch size or number of iterations below 1.
    """

    def __init__(
        self,
        generator: nn.Module,
        encoder: TensorFunction,
        targets: Iterable[Target] = (),
        *,
        batch_size: int,
        drop_ratio: float = 0.1,
        max_iters: int = 100,
        lr: float = 0.1,
        id_weight: float = 100.0,
        id_tolerance: float = 0.3,
        on_iteration: Callable[[list[Result]], None] = lambda results: None,
        on_iterates: Callable[[list[Iterate]], None] | None = None,
        iterates_every: int = 10,
    ):
        if batch_size < 1 or max_iters < 1 or iterates_every < 1:
            raise ValueError("batch_size, max_iters and iterates_every must be at least 1")
        self.generator, self.encoder, self.targets = generator, encoder, list(targets)
        self.batch_size, self.drop_ratio, self.max_iters = batch_size, drop_ratio, max_iters
        self.lr, self.id_weight, self.id_tolerance = lr, id_weight, id_tolerance
        self.on_iteration, self.on_iterates, self.iterates_every = on_iteration, on_iterates, iterates_every

    @property
    def target_names(self) -> list[str]:
        """Names of all targets, that of the identity first."""
        return ["id_similarity", *(target.name for target in self.targets)]

    def run(self, rows: Iterable[Row]) -> Iterator[Result]:
        """Yield Results in the order in which rows end. ``rows`` is read as slots of the batch become free."""
        waiting = iter(rows)
        return self.run_queue(lambda: next(waiting, None))

    def run_queue(self, next_row: Callable[[], Row | None]) -> Iterator[Result]:
        """Like ``run``, for a queue: ``next_row()`` returns the next row, or None if none is waiting at the moment.

        It is called in each iteration with free slots. The iterator ends when the batch is empty.
        """
        parameter = next(self.generator.parameters())
        batch = Batch(self.batch_size, parameter.device, HALF_SCALE if parameter.dtype == torch.float16 else 1)
        on_gpu = parameter.device.type == "cuda"
        while batch.fill(next_row):
            step = self.evaluate(batch.vectors, batch.identities, batch.draw_masks(self.drop_ratio))
            batch.remember_best(step)
            if self.on_iterates is not None:
                self.on_iterates(batch.iterates(step, self.iterates_every, self.target_names))
            flags = Download(torch.stack([step.finite(), step.accepted()]))  # (2, B): the only transfer of an iteration
            if on_gpu:  # the backward pass runs while the host reads the flags
                batch.descend(step, self.lr)
            ended = self._endings(batch, *flags.wait()[0].tolist())
            results = self._results(batch, ended) if ended else []
            if batch.rows and not on_gpu:
                batch.descend(step, self.lr)
            del step  # frees the autograd graph before the caller works on the results
            self.on_iteration(results)
            yield from results

    def evaluate(self, vectors: torch.Tensor, identities: torch.Tensor, mask: TokenMask) -> Step:
        """Decode vectors (B, 512) and compute attributes and losses. ``identities``: identity vectors (B, 512)."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = vectors.clone().requires_grad_()
            images = self.generator(leaf, mask).images.clip(-1, 1)  # (B, 3, 112, 112)
            features, *outputs = self._each_model_once(images)  # (B, 512), and one output for each target
            similarity = F.cosine_similarity(features, identities)  # (B,)
            values = [target.read(output).float() for target, output in zip(self.targets, outputs, strict=True)]  # (B,)
            penalties = [target.penalty(value) for target, value in zip(self.targets, values, strict=True)]  # (B,)
            loss = self.id_weight * (1 - similarity)  # (B,)
            for target, penalty in zip(self.targets, penalties, strict=True):
                loss = loss + target.weight * penalty
        passed = [1 - similarity <= self.id_tolerance]
        passed += [penalty <= target.tolerance for target, penalty in zip(self.targets, penalties, strict=True)]
        # ``values`` and ``passed`` are stacked to (1 + T, B).
        return Step(leaf, images.detach(), loss, torch.stack([similarity, *values]).detach(), torch.stack(passed))

    def _each_model_once(self, images: torch.Tensor) -> Iterator[Any]:
        """Yield the output of the encoder and of the model of each target, running shared models once."""
        outputs = {}
        for model in (self.encoder, *(target.model for target in self.targets)):
            if id(model) not in outputs:
                outputs[id(model)] = model(images)
            yield outputs[id(model)]

    def _endings(self, batch: Batch, finite: list[bool], accepted: list[bool]) -> dict[int, str | None]:
        """{slot: reason} of the rows that end: "" if accepted, None if the iterations are used up."""
        ended = {}
        for slot in sorted(batch.rows):
            if not finite[slot]:
                ended[slot] = f"not finite at iteration {batch.iterations[slot]}"
            elif accepted[slot]:
                ended[slot] = ""
            elif batch.iterations[slot] == self.max_iters:
                ended[slot] = None
        return ended

    def _results(self, batch: Batch, ended: dict[int, str | None]) -> list[Result]:
        """The Results of the rows that end; removes them from the batch. ``ended``: the result of ``_endings``."""
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
