"""Sampling well-separated identity vectors (paper section 3.3).

Candidates are drawn in blocks, each from (seed, block) alone. A candidate is accepted if its cosine similarity to every
accepted and every avoided vector is at most the threshold. All pairs are compared by float32 matrix products of blocks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike

from models.errors import UserError

Vectors = np.ndarray | Sequence[np.ndarray]  # (N, D), or an empty sequence

BLOCK = 2048  # candidates per block
COLUMNS = 65536  # vectors compared with a block in one matrix product
ROUNDING = 1e-5  # margin below the threshold, so that it holds however products are rounded
PATIENCE = 20  # blocks in a row without an acceptance after which the space counts as full


class Sampler(Protocol):
    """Draws candidates: ``count`` vectors (count, width) float32 from the random generator ``rng``."""

    width: int

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray: ...


class GaussianSampler:
    """Independent normal dimensions, with mean and variance of ``features`` (N, D), or standard normal without them."""

    def __init__(self, features: np.ndarray | None = None, width: int = 512):
        self.width = width if features is None else features.shape[1]
        self.mean = np.zeros(width) if features is None else features.mean(0, dtype=np.float64)  # (D,)
        self.deviation = np.ones(width) if features is None else features.std(0, dtype=np.float64)  # (D,)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, D) float32."""
        noise = rng.standard_normal((count, len(self.mean)))  # (count, D)
        return (self.mean + noise * self.deviation).astype(np.float32)


class PCASampler:
    """The published sampler: a multivariate normal in the PCA space of real class centroids ``features`` (N, D), N > 1.

    In that space the covariance is diagonal, with the explained variances of the components.
    """

    def __init__(self, features: np.ndarray):
        from sklearn.decomposition import PCA  # takes seconds to import and is needed only here

        self.width = features.shape[1]
        components = min(features.shape[1], len(features) - 1)
        self.pca = PCA(n_components=components, svd_solver="full").fit(np.asarray(features, np.float64))

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, D) float32."""
        noise = rng.standard_normal((count, self.pca.n_components_))  # (count, P)
        return self.pca.inverse_transform(noise * np.sqrt(self.pca.explained_variance_)).astype(np.float32)


def directions(vectors: ArrayLike, device: torch.device | str = "cpu") -> torch.Tensor:
    """(N, D) array -> (N, D) float32 tensor of unit rows."""
    return torch.nn.functional.normalize(torch.as_tensor(np.asarray(vectors, np.float32), device=device))


def highest_similarity(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The largest cosine of each of the unit ``rows`` (N, D) to the unit ``others`` (M, D): (N,); -1 if M is 0."""
    best = rows.new_full((len(rows),), -1.0)  # (N,)
    for start in range(0, len(others), COLUMNS):
        best = torch.maximum(best, (rows @ others[start : start + COLUMNS].T).amax(1))
    return best


def mutually_apart(candidates: torch.Tensor, limit: float) -> np.ndarray:
    """Select unit candidates (N, D) greedily, in order, with pairwise cosines of at most ``limit``: positions (n,)."""
    close = (candidates @ candidates.T > limit).cpu().numpy()  # (N, N)
    taken = np.zeros(len(close), bool)
    for row in range(len(close)):
        taken[row] = not (close[row] & taken).any()
    return np.flatnonzero(taken)


def sample_apart(
    sampler: Sampler, count: int, threshold: float, seed: int, avoid: Vectors = (), accepted: Vectors = (),
    block: int = 0, device: torch.device | str = "cpu",
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """Iterate over (next block, newly accepted vectors (n, D) float32), until ``count`` vectors are accepted.

    ``threshold``: largest cosine of two vectors; ``avoid``: vectors (M, D) that are kept at the same distance, such as
    those of real identities; ``accepted`` (A, D) and ``block``: where an earlier run stopped. Ends early when the space
    is full, that is after PATIENCE blocks in a row without an acceptance.
    """
    limit, idle, filled = threshold - ROUNDING, 0, len(accepted)
    rows = torch.empty(count, sampler.width, device=device)  # directions of all accepted vectors
    rows[:filled] = directions(accepted, device) if filled else 0
    avoid = directions(avoid, device) if len(avoid) else rows[:0]
    while filled < count and idle < PATIENCE:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block,)))
        candidates = sampler.draw(rng, BLOCK)  # (BLOCK, D)
        new = directions(candidates, device)
        nearest = torch.maximum(highest_similarity(new, rows[:filled]), highest_similarity(new, avoid))  # (BLOCK,)
        keep = np.flatnonzero((nearest <= limit).cpu().numpy())
        keep = keep[mutually_apart(new[keep], limit)][: count - filled]
        rows[filled : filled + len(keep)] = new[keep]
        filled += len(keep)
        block, idle = block + 1, 0 if len(keep) else idle + 1
        yield block, candidates[keep]


def similarity_of_pairs(
    vectors: np.ndarray, device: torch.device | str = "cpu", show: Callable[[range], Iterable[int]] | None = None
) -> tuple[float, float]:
    """(largest, mean) cosine over all pairs of the vectors (K, D), K > 1. ``show``: wraps the loop, such as tqdm."""
    rows = directions(vectors, device)
    largest, starts = -1.0, range(0, len(rows), BLOCK)
    for start in show(starts) if show else starts:
        block = rows[start : start + BLOCK]
        for other in range(start, len(rows), COLUMNS):
            product = block @ rows[other : other + COLUMNS].T
            if other == start:
                product[:, : len(block)].fill_diagonal_(-1)
            largest = max(largest, float(product.max()))
    return largest, mean_similarity(float(rows.sum(0, dtype=torch.float64).square().sum()), len(rows))


def mean_similarity(square: float, count: int) -> float:
    """Mean cosine over all pairs of ``count`` > 1 unit vectors whose sum has the squared norm ``square``.

    |sum_i u_i|^2 = sum_ij u_i . u_j, of which the ``count`` terms with i = j are 1.
    """
    return (square - count) / (count * (count - 1))


def with_mean_similarity(vectors: np.ndarray, target: float) -> np.ndarray:
    """Move vectors (K, D) towards their mean direction until their mean pairwise cosine is ``target``; norms are kept.

    Used for the paper's ablation of separability. Raises UserError when they are already more similar than that.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (K, 1)
    units = (vectors / norms).astype(np.float64)  # (K, D)
    centre = units.sum(0) / np.linalg.norm(units.sum(0))  # (D,)
    cosines = units @ centre  # (K,)

    def lengths(fraction: float) -> np.ndarray:
        """Norms of (1 - fraction) * units + fraction * centre, (K,)."""
        return np.sqrt((1 - fraction) ** 2 + fraction**2 + 2 * fraction * (1 - fraction) * cosines)

    def similarity(fraction: float) -> float:
        weights = 1 / lengths(fraction)  # (K,)
        total = (1 - fraction) * (weights @ units) + fraction * weights.sum() * centre  # (D,) sum of moved directions
        return mean_similarity(total @ total, len(units))

    lowest = similarity(0)
    if not lowest <= target < 1:
        raise UserError(f"--average_similarity {target}: these vectors can be given {lowest:.4f} or more, below 1.")
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if similarity(middle) < target else (low, middle)
    moved = ((1 - high) * units + high * centre) / lengths(high)[:, None]  # (K, D)
    return (moved * norms).astype(np.float32)


def mix_pairs(vectors: np.ndarray, count: int, low: float, high: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Identity mixup (SynFace, Qiu et al., 2021): ``count`` vectors phi a + (1 - phi) b of random pairs (a, b).

    ``vectors``: (K, D), K > 1. Mixtures are rescaled to the norm phi |a| + (1 - phi) |b|. Returns (mixtures (count, D)
    float32, labels (count, 3): row of a, row of b, phi, which is uniform in [low, high]).
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 0)))
    first = rng.integers(0, len(vectors), count)
    second = (first + rng.integers(1, len(vectors), count)) % len(vectors)  # any other row
    phi = rng.uniform(low, high, count)[:, None]  # (count, 1)
    return mixtures(vectors[first], vectors[second], phi), np.column_stack([first, second, phi])


def mixtures(a: np.ndarray, b: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """phi a + (1 - phi) b, rescaled to the norm phi |a| + (1 - phi) |b|: (N, D) float32.

    ``a`` and ``b``: vectors (N, D), or one vector (1, D). ``phi``: fractions (N, 1).
    """
    mixed = phi * a + (1 - phi) * b  # (N, D)
    norms = phi * np.linalg.norm(a, axis=1, keepdims=True) + (1 - phi) * np.linalg.norm(b, axis=1, keepdims=True)
    mixed *= norms / np.linalg.norm(mixed, axis=1, keepdims=True)
    return mixed.astype(np.float32)
