"""How evenly values spread over their range, and how sure that is."""

from typing import NamedTuple

import numpy as np

CELLS = 20  # equal parts of a value's range
RESAMPLINGS = 200  # of the identities, for the standard error
SURE = 2.0  # standard errors beyond which a difference is told


class Spread(NamedTuple):
    """Entropy of a value's histogram as a share of the largest one, that of equal counts; and its standard error."""

    entropy: float
    error: float


def spread(values: np.ndarray, labels: np.ndarray, limits: tuple[float, float], rng: np.random.Generator) -> Spread:
    """The spread of ``values`` (N,), of images with identity ``labels`` (N,), over the range ``limits``.

    H = -sum p log p / log CELLS over the CELLS equal parts of the range; values outside count for the parts at its
    ends. The standard error is that of drawing the identities again, with repetition, as images of an identity are
    not independent.
    """
    _, identities = np.unique(labels, return_inverse=True)
    cells = np.digitize(values, np.linspace(*limits, CELLS + 1)[1:-1])  # (N,) in [0, CELLS)
    counts = np.zeros((identities.max() + 1, CELLS))
    np.add.at(counts, (identities, cells), 1)  # (identities, CELLS)
    chances = np.full(len(counts), 1 / len(counts))
    drawn = rng.multinomial(len(counts), chances, RESAMPLINGS) @ counts  # (RESAMPLINGS, CELLS)
    return Spread(float(entropy(counts.sum(0))), float(np.std(entropy(drawn))))


def entropy(counts: np.ndarray) -> np.ndarray:
    """Entropy of histograms (..., CELLS), as a share of that of equal counts: (...,)."""
    shares = counts / counts.sum(-1, keepdims=True)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(-1) / np.log(counts.shape[-1])


def is_sure(one: Spread, two: Spread) -> bool:
    """Whether the difference of two entropies exceeds SURE standard errors."""
    return abs(one.entropy - two.entropy) > SURE * np.hypot(one.error, two.error)
