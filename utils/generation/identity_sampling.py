"""Sampling identity vectors that lie apart (paper section 3.3).

Candidates come in blocks, each from (seed, block) alone; a candidate is accepted when no accepted or avoided vector
is more similar than the threshold. All products are exact, blocked matrix products in float32.
"""

import numpy as np
import torch

from models.errors import UserError

BLOCK = 2048  # candidates at a time
COLUMNS = 65536  # vectors compared with a block in one product
ROUNDING = 1e-5  # kept below the threshold, so that it holds however products are rounded
PATIENCE = 20  # blocks without a single acceptance after which the space counts as full


class GaussianSampler:
    """Independent normal dimensions: those of ``features`` (N, D), or without them zero mean and unit variance."""

    def __init__(self, features=None, width=512):
        self.width = width if features is None else features.shape[1]
        self.mean = np.zeros(width) if features is None else features.mean(0, dtype=np.float64)  # (D,)
        self.deviation = np.ones(width) if features is None else features.std(0, dtype=np.float64)  # (D,)

    def draw(self, rng, count):
        """(count, D) float32."""
        noise = rng.standard_normal((count, len(self.mean)))  # (count, D)
        return (self.mean + noise * self.deviation).astype(np.float32)


class PCASampler:
    """The published sampler: a multivariate normal in the PCA space of real identity centres, (N, D) with N > 1.

    In that space their covariance is diagonal, the explained variance of each component.
    """

    def __init__(self, features):
        from sklearn.decomposition import PCA  # takes seconds to import, and comparing vectors needs none of it

        self.width = features.shape[1]
        components = min(features.shape[1], len(features) - 1)
        self.pca = PCA(n_components=components, svd_solver="full").fit(np.asarray(features, np.float64))

    def draw(self, rng, count):
        """(count, D) float32."""
        noise = rng.standard_normal((count, self.pca.n_components_))  # (count, P)
        return self.pca.inverse_transform(noise * np.sqrt(self.pca.explained_variance_)).astype(np.float32)


def directions(vectors, device="cpu"):
    """(N, D) array -> (N, D) tensor of rows of length 1."""
    return torch.nn.functional.normalize(torch.as_tensor(np.asarray(vectors, np.float32), device=device))


def highest_similarity(rows, others):
    """For each row (N, D) its largest cosine to any of ``others`` (M, D), both of length 1: (N,); -1 without others."""
    best = rows.new_full((len(rows),), -1.0)  # (N,)
    for start in range(0, len(others), COLUMNS):
        best = torch.maximum(best, (rows @ others[start : start + COLUMNS].T).amax(1))
    return best


def mutually_apart(candidates, limit):
    """Which of the candidates (N, D), of length 1, greedy in their order lie apart by ``limit``: list of positions."""
    close = (candidates @ candidates.T > limit).cpu().numpy()  # (N, N)
    taken = np.zeros(len(close), bool)
    for row in range(len(close)):
        taken[row] = not (close[row] & taken).any()
    return np.flatnonzero(taken)


def sample_apart(sampler, count, threshold, seed, avoid=(), accepted=(), block=0, device="cpu"):
    """Iterate over (next block, newly accepted vectors (n, D) float32), until ``count`` are accepted.

    ``avoid``: vectors (M, D) nobody may come closer to than ``threshold``, ``accepted`` (A, D) and ``block``: where an
    earlier run stopped. Ends early when the space is full: PATIENCE blocks went by without an acceptance.
    """
    limit, idle, filled = threshold - ROUNDING, 0, len(accepted)
    rows = torch.empty(count, sampler.width, device=device)  # the directions of all accepted
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


def similarity_of_pairs(vectors, device="cpu", show=None):
    """(largest, mean) cosine over all pairs of rows of (K, D) float vectors, K > 1. ``show``: progress, see tqdm."""
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


def mean_similarity(square, count):
    """Mean cosine of all pairs of ``count`` > 1 directions whose sum has the squared length ``square``.

    The square is the sum of all products, of which each direction's with itself is 1.
    """
    return (square - count) / (count * (count - 1))


def with_mean_similarity(vectors, wanted):
    """Pull vectors (K, D) toward their mean direction until their mean similarity is ``wanted``; norms stay.

    For the paper's ablation of separability. Raises UserError when they are more similar than that already.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (K, 1)
    units = (vectors / norms).astype(np.float64)  # (K, D)
    centre = units.sum(0) / np.linalg.norm(units.sum(0))  # (D,)
    cosines = units @ centre  # (K,)

    def lengths(share):
        """Of (1 - share) * units + share * centre, (K,)."""
        return np.sqrt((1 - share) ** 2 + share**2 + 2 * share * (1 - share) * cosines)

    def similarity(share):
        weights = 1 / lengths(share)  # (K,)
        total = (1 - share) * (weights @ units) + share * weights.sum() * centre  # (D,) sum of the pulled directions
        return mean_similarity(total @ total, len(units))

    lowest = similarity(0)
    if not lowest <= wanted < 1:
        raise UserError(f"--average_similarity {wanted}: these vectors can be given {lowest:.4f} or more, below 1.")
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if similarity(middle) < wanted else (low, middle)
    pulled = ((1 - high) * units + high * centre) / lengths(high)[:, None]  # (K, D)
    return (pulled * norms).astype(np.float32)


def mix_pairs(vectors, count, low, high, seed):
    """Identity mixup (SynFace, Qiu et al., 2021): ``count`` vectors phi a + (1 - phi) b of random pairs, norm kept.

    Returns (vectors (count, D) float32, labels (count, 3): number of a, number of b, phi from [low, high]).
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 0)))
    first = rng.integers(0, len(vectors), count)
    second = (first + rng.integers(1, len(vectors), count)) % len(vectors)  # anybody else
    phi = rng.uniform(low, high, count)[:, None]  # (count, 1)
    a, b = vectors[first], vectors[second]  # (count, D)
    mixed = phi * a + (1 - phi) * b
    norms = phi * np.linalg.norm(a, axis=1, keepdims=True) + (1 - phi) * np.linalg.norm(b, axis=1, keepdims=True)
    mixed *= norms / np.linalg.norm(mixed, axis=1, keepdims=True)
    return mixed.astype(np.float32), np.column_stack([first, second, phi])
