"""Figures of a dataset, from FR features (N, D) and labels (N,).

Products are computed in blocks, so memory stays bounded. Where the exact figure would take too long, a random sample
stands for all, and the result includes the size of the sample.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.stats import fisher_exact

from utils.evaluation.verification import equal_error_rate
from utils.generation.identity_sampling import directions

BLOCK = 2048
SEPARATE = 0.4  # two class centroids that are more similar may be one identity; the threshold of the paper
NEIGHBOURS = 3  # of improved precision and recall (Kynkaanniemi et al., 2019)
BINS = np.linspace(-1, 1, 201)

Device = torch.device | str
Show = Callable[[Iterable], Iterable]  # wraps an iterable in a progress bar, as tqdm does


def normalised(features: np.ndarray) -> np.ndarray:
    """Features (N, D) scaled to length 1; a row of zeros stays one."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def sums_of(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The sum of the directions of each identity's features, (C, D): its class centroid, up to its length."""
    sums = np.zeros((classes, features.shape[1]), np.float32)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        np.add.at(sums, labels[rows], normalised(features[rows].astype(np.float32)))
    return sums


def nearest_preceding(
    centroids: np.ndarray, device: Device = "cpu", show: Show | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar of the centroids that precede each one of (C, D): (similarity (C,), index (C,)).

    Both are -1 for the first one.
    """
    rows, starts = directions(centroids, device), range(0, len(centroids), BLOCK)
    similarity, nearest = np.full(len(rows), -1.0, np.float32), np.full(len(rows), -1)
    for start in show(starts) if show else starts:
        block = rows[start : start + BLOCK]
        product = block @ rows[: start + len(block)].T  # (B, start + B)
        not_preceding = (
            torch.arange(product.shape[1], device=device) >= start + torch.arange(len(block), device=device)[:, None]
        )  # (B, start + B)
        values, indices = product.masked_fill(not_preceding, -2).max(1)
        similarity[start : start + len(block)], nearest[start : start + len(block)] = values.cpu(), indices.cpu()
    similarity[:1], nearest[:1] = -1, -1
    return similarity, nearest


def separability(similarity: np.ndarray, points: int = 20) -> list[tuple[int, int]]:
    """[(k, number of the first k identities without a preceding one above SEPARATE)], at about ``points`` k.

    ``similarity``: as ``nearest_preceding`` returns it.
    """
    separate = np.cumsum(similarity <= SEPARATE)
    step = 1000 if len(similarity) >= 2000 else max(1, len(similarity) // points)
    counts = sorted({*range(step, len(similarity) + 1, step), len(similarity)})
    return [(int(count), int(separate[count - 1])) for count in counts]


def separate_among(centroids: np.ndarray, count: int, rng: np.random.Generator, device: Device = "cpu") -> int:
    """How many of ``count`` random centroids of (C, D), in their order, have no preceding one above SEPARATE."""
    chosen = np.sort(rng.permutation(len(centroids))[:count])
    return int((nearest_preceding(centroids[chosen], device)[0] <= SEPARATE).sum())


def chance_of_difference(one: int, two: int, count: int) -> float:
    """The p-value of ``one`` against ``two`` successes out of ``count`` each (Fisher's exact test)."""
    return float(fisher_exact([[one, count - one], [two, count - two]]).pvalue)


def histogram_of_pairs(
    centroids: np.ndarray, rng: np.random.Generator, most: int, device: Device = "cpu"
) -> tuple[np.ndarray, int]:
    """(counts over BINS of the similarities of all pairs of at most ``most`` random centroids, number of centroids)."""
    chosen = rng.permutation(len(centroids))[:most]
    rows, counts = directions(centroids[chosen], device), np.zeros(len(BINS) - 1, np.int64)
    for start in range(0, len(rows), BLOCK):
        product = (rows[start : start + BLOCK] @ rows[start:].T).cpu().numpy()
        values = product[np.triu_indices(*product.shape[:1], k=1, m=product.shape[1])]
        counts += np.histogram(values.clip(-1, 1), BINS)[0]
    return counts, len(rows)


def own_similarities(features: np.ndarray, labels: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Similarity of each image to the centroid of its identity's *other* images, (N,); NaN where there are none.

    ``sums``: the sums of each identity's directions (C, D); ``counts``: the number of images of each (C,).
    """
    result = np.full(len(features), np.nan, np.float32)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        unit = normalised(features[rows].astype(np.float32))
        others = normalised(sums[labels[rows]] - unit)
        result[rows] = np.where(counts[labels[rows]] > 1, (unit * others).sum(1), np.nan)
    return result


def consistency(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean similarity of two images of an identity, for each identity with at least two images: (C',).

    ``sums``: the sums s of each identity's directions (C, D); ``counts``: the number n of images of each (C,). The mean
    over all pairs of two images is (|s|^2 - n) / (n (n - 1)), whatever n is.
    """
    sums, n = sums[counts > 1].astype(np.float64), counts[counts > 1]
    return (np.square(sums).sum(1) - n) / (n * (n - 1))


def misassigned_fraction(
    features: np.ndarray,
    labels: np.ndarray,
    centroids: np.ndarray,
    own: np.ndarray,
    rng: np.random.Generator,
    most: int,
    device: Device = "cpu",
) -> tuple[float, int]:
    """(fraction of images more similar to another identity's centroid than to their own, number of images checked).

    ``own`` (N,): as ``own_similarities`` returns it. At most ``most`` random images are checked.
    """
    chosen = rng.permutation(np.flatnonzero(~np.isnan(own)))[:most]
    others, misassigned = directions(centroids, device), 0
    for start in range(0, len(chosen), BLOCK):
        rows = chosen[start : start + BLOCK]
        product = directions(features[rows], device) @ others.T  # (B, C)
        product[torch.arange(len(rows)), torch.as_tensor(labels[rows], device=device)] = -2
        misassigned += int((product.amax(1).cpu().numpy() > own[rows]).sum())
    return misassigned / max(len(chosen), 1), len(chosen)


def genuine_and_impostor(
    features: np.ndarray, labels: np.ndarray, rng: np.random.Generator, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of random pairs of one identity and of two: (genuine, impostor), each at most (most,)."""
    by_label = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_label], np.arange(labels.max() + 2))
    counts = np.diff(starts)
    with_pairs = np.flatnonzero(counts > 1)
    identities = rng.choice(with_pairs, most) if len(with_pairs) else with_pairs
    first = (rng.random(len(identities)) * counts[identities]).astype(int)
    second = (first + 1 + (rng.random(len(identities)) * (counts[identities] - 1)).astype(int)) % counts[identities]
    genuine = (by_label[starts[identities] + first], by_label[starts[identities] + second])
    a, b = rng.integers(0, len(labels), (2, most))
    impostor = (a[labels[a] != labels[b]], b[labels[a] != labels[b]])
    return tuple(_cosines(features, *pair) for pair in (genuine, impostor))


def _cosines(features: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of the rows ``a`` (P,) and ``b`` (P,) of features (N, D): (P,)."""
    result = np.zeros(len(a), np.float32)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        one, two = (normalised(features[index[rows]].astype(np.float32)) for index in (a, b))
        result[rows] = (one * two).sum(1)
    return result


def error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float | None:
    """Equal error rate, or None when there are no pairs of one kind."""
    return equal_error_rate(genuine, impostor) if len(genuine) and len(impostor) else None


def leakage(
    features: np.ndarray,
    reference: np.ndarray,
    rng: np.random.Generator,
    most: int,
    worst: int,
    device: Device = "cpu",
    show: Show | None = None,
) -> tuple[dict, list[tuple[int, int, float]]]:
    """Similarity of images (at most ``most`` random ones) to the nearest reference centroid of (R, D).

    Returns {images, largest, mean_of_largest, above: {threshold: fraction}}, and the ``worst`` pairs as
    [(image, centroid, similarity)].
    """
    chosen = rng.permutation(len(features))[:most] if most < len(features) else np.arange(len(features))
    others = directions(reference, device)
    similarity, nearest = np.zeros(len(chosen), np.float32), np.zeros(len(chosen), int)
    starts = range(0, len(chosen), BLOCK)
    for start in show(starts) if show else starts:
        rows = slice(start, start + BLOCK)
        values, indices = (directions(features[chosen[rows]], device) @ others.T).max(1)
        similarity[rows], nearest[rows] = values.cpu(), indices.cpu()
    summary = {
        "images": len(chosen),
        "reference_centres": len(reference),
        "largest": float(similarity.max()),
        "mean_of_largest": float(similarity.mean()),
        "above": {f"{t:g}": float((similarity > t).mean()) for t in (0.3, SEPARATE, 0.5, 0.6, 0.7)},
    }
    order = np.argsort(-similarity)[:worst]
    return summary, [(int(chosen[i]), int(nearest[i]), float(similarity[i])) for i in order]


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of features (N, D) and (M, D): of the normal distributions with their means and covariances.

    With A = R'R and B = S'S the covariances, tr (AB)^½ is the sum of the singular values of RS', which stays exact when
    there are fewer images than dimensions.
    """
    means, roots, traces = [], [], []
    for features in (a, b):
        features = features.astype(np.float64)
        means.append(features.mean(0))  # (D,)
        centred = (features - means[-1]) / np.sqrt(len(features) - 1)  # (N, D)
        roots.append(np.linalg.qr(centred, mode="r"))  # (min(N, D), D)
        traces.append(np.square(centred).sum())
    common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    distance = np.square(means[0] - means[1]).sum() + sum(traces) - 2 * common
    return float(max(distance, 0))  # rounding of either sign when the sets are equal


def precision_and_recall(real: np.ndarray, fake: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al., 2019) of features (N, D), (M, D); both counts > neighbours.

    Precision is the fraction of ``fake`` within the manifold of ``real``; recall is the opposite.
    """
    return _fraction_within(real, fake, neighbours), _fraction_within(fake, real, neighbours)


def _fraction_within(manifold: np.ndarray, points: np.ndarray, neighbours: int) -> float:
    """Fraction of points (M, D) that are as close to a manifold point (N, D) as that is to its k-th neighbour."""
    manifold, points = torch.from_numpy(np.float32(manifold)), torch.from_numpy(np.float32(points))
    radii = torch.cat([torch.cdist(b, manifold).kthvalue(neighbours + 1).values for b in manifold.split(BLOCK)])  # (N,)
    inside = [(torch.cdist(block, manifold) <= radii).any(1) for block in points.split(BLOCK)]
    return float(torch.cat(inside).float().mean())


def within_identity_std(values: np.ndarray, labels: np.ndarray) -> float | None:
    """Standard deviation of ``values`` (N,) within an identity, averaged over identities; None without two images."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    deviations = [part.std() for part in np.split(values[order], starts[1:]) if len(part) > 1]
    return float(np.mean(deviations)) if deviations else None
