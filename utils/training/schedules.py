"""Learning-rate schedules. Every function gives the learning rate at one point of a training."""

import math
from collections.abc import Callable, Sequence

MILESTONE_FACTOR = 0.1
POLYNOMIAL_POWER = 2


def warmup_then_cosine(epoch: float, highest: float, lowest: float, warmup_epochs: float, epochs: float) -> float:
    """At a fractional ``epoch`` from 0: linear from 0 to ``highest`` in the warm-up, then a half-cosine to ``lowest``.

    The half-cosine ends with the last of ``epochs``; the learning rate stays at ``lowest`` from there on.
    """
    if epoch < warmup_epochs:
        return highest * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9)
    return _half_cosine(highest, lowest, math.pi * min(progress, 1))


def by_update(of_epoch: Callable[[float], float], updates_per_epoch: int) -> Callable[[int], float]:
    """The learning rate by the number of updates so far, from that by the fractional epoch."""
    return lambda update: of_epoch(update / updates_per_epoch)


def warmup_then_milestones(epoch: float, highest: float, warmup_epochs: float, milestones: Sequence[int]) -> float:
    """At a fractional ``epoch`` from 0: linear from 0 to ``highest``, then a tenth of it from each milestone on.

    ``milestones``: epochs counted from 1, as users count them.
    """
    if epoch < warmup_epochs:
        return highest * epoch / warmup_epochs
    return highest * MILESTONE_FACTOR ** sum(epoch >= milestone - 1 for milestone in milestones)


def warmup_then_polynomial(epoch: float, highest: float, warmup_epochs: float, epochs: float) -> float:
    """At a fractional ``epoch`` from 0: linear from 0 to ``highest``, then the square of what is left of the training.

    It is 0 after the last of ``epochs``, as in PartialFC's recipe for many identities.
    """
    if epoch < warmup_epochs:
        return highest * epoch / warmup_epochs
    return highest * max(0.0, (epochs - epoch) / max(epochs - warmup_epochs, 1e-9)) ** POLYNOMIAL_POWER


def warmup_within_cosine(step: int, highest: float, warmup_steps: int, steps: int) -> float:
    """At a ``step`` of ``steps``: linear to ``highest`` over the warm-up, then the rest of a half-cosine to 0.

    The half-cosine begins with step 0, so that the learning rate is a little below ``highest`` after the warm-up.
    """
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    return _half_cosine(highest, 0.0, math.pi * step / steps)


def cosine_restarts(update: int, highest: float, first: int, factor: int) -> float:
    """At an ``update`` from 0: half-cosines from ``highest`` to 0, each ``factor`` times as long as the one before.

    ``first``: the number of updates of the first one. SGDR (Loshchilov and Hutter, 2017) calls these warm restarts.
    """
    length = first
    while update >= length:
        update, length = update - length, length * factor
    return _half_cosine(highest, 0.0, math.pi * update / length)


def _half_cosine(highest: float, lowest: float, angle: float) -> float:
    """``highest`` at angle 0, ``lowest`` at pi."""
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(angle))
