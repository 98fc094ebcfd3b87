"""What a dataset of people is like, in numbers: from FR features (N, D) and labels (N,).

Products are blocked, so memory stays bounded; where an exact figure would take too long a random sample stands
for all, and the result says of how many.
"""

import numpy as np
import torch
from scipy.stats import fisher_exact

from utils.evaluation.verification import equal_error_rate
from utils.generation.identity_sampling import directions

BLOCK = 2048
SEPARATE = 0.4  # centres more similar than this may be one person (paper section 4.2)
NEIGHBOURS = 3  # of improved precision and recall (Kynkaanniemi et al., 2019)
BINS = np.linspace(-1, 1, 201)


def normalised(features):
    """Rows of length 1; a row of zeros stays one."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def sums_of(features, labels, classes):
    """The sum of each person's directions, (C, D): the person's centre, but for its length."""
    sums = np.zeros((classes, features.shape[1]), np.float32)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        np.add.at(sums, labels[rows], normalised(features[rows].astype(np.float32)))
    return sums


def nearest_earlier(centres, device="cpu", show=None):
    """For each centre (C, D) the most similar one *before* it: (similarity (C,), position (C,)); -1 for the first."""
    rows, starts = directions(centres, device), range(0, len(centres), BLOCK)
    best, place = np.full(len(rows), -1.0, np.float32), np.full(len(rows), -1)
    for start in show(starts) if show else starts:
        block = rows[start : start + BLOCK]
        product = block @ rows[: start + len(block)].T  # (B, start + B)
        later = (
            torch.arange(product.shape[1], device=device) >= start + torch.arange(len(block), device=device)[:, None]
        )
        values, places = product.masked_fill(later, -2).max(1)
        best[start : start + len(block)], place[start : start + len(block)] = values.cpu(), places.cpu()
    best[:1], place[:1] = -1, -1
    return best, place


def separability(best, points=20):
    """[(people k, how many of the first k have no earlier centre above SEPARATE)], at about ``points`` k."""
    separate = np.cumsum(best <= SEPARATE)
    step = 1000 if len(best) >= 2000 else max(1, len(best) // points)
    return [(int(k), int(separate[k - 1])) for k in sorted({*range(step, len(best) + 1, step), len(best)})]


def separate_among(centres, count, rng, device="cpu"):
    """How many of ``count`` random centres of (C, D), in their order, have no earlier one above SEPARATE."""
    chosen = np.sort(rng.permutation(len(centres))[:count])
    return int((nearest_earlier(centres[chosen], device)[0] <= SEPARATE).sum())


def chance_of_difference(one, two, count):
    """How likely chance alone makes ``one`` and ``two`` of ``count`` each differ so much (Fisher's exact test)."""
    return float(fisher_exact([[one, count - one], [two, count - two]]).pvalue)


def histogram_of_pairs(centres, rng, most, device="cpu"):
    """(counts over BINS of the similarities of all pairs of at most ``most`` random centres, how many centres)."""
    chosen = rng.permutation(len(centres))[:most]
    rows, counts = directions(centres[chosen], device), np.zeros(len(BINS) - 1, np.int64)
    for start in range(0, len(rows), BLOCK):
        product = (rows[start : start + BLOCK] @ rows[start:].T).cpu().numpy()
        values = product[np.triu_indices(*product.shape[:1], k=1, m=product.shape[1])]
        counts += np.histogram(values.clip(-1, 1), BINS)[0]
    return counts, len(rows)


def own_similarities(features, labels, sums, counts):
    """Similarity of each image to the centre of its person's *other* images, (N,); NaN where there are none.

    ``sums``: the sums of each person's directions (C, D); ``counts``: images of each (C,).
    """
    result = np.full(len(features), np.nan, np.float32)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        unit = normalised(features[rows].astype(np.float32))
        others = normalised(sums[labels[rows]] - unit)
        result[rows] = np.where(counts[labels[rows]] > 1, (unit * others).sum(1), np.nan)
    return result


def closer_to_another(features, labels, centres, own, rng, most, device="cpu"):
    """(share of at most ``most`` random images more similar to another person's centre than to their own, how many)."""
    chosen = rng.permutation(np.flatnonzero(~np.isnan(own)))[:most]
    others, wrong = directions(centres, device), 0
    for start in range(0, len(chosen), BLOCK):
        rows = chosen[start : start + BLOCK]
        product = directions(features[rows], device) @ others.T  # (B, C)
        product[torch.arange(len(rows)), torch.as_tensor(labels[rows], device=device)] = -2
        wrong += int((product.amax(1).cpu().numpy() > own[rows]).sum())
    return wrong / max(len(chosen), 1), len(chosen)


def genuine_and_impostor(features, labels, rng, most):
    """Similarities of ``most`` random pairs of one person and of two: (genuine, impostor), each at most (most,)."""
    by_label = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_label], np.arange(labels.max() + 2))
    counts = np.diff(starts)
    several = np.flatnonzero(counts > 1)
    people = rng.choice(several, most) if len(several) else several
    first = (rng.random(len(people)) * counts[people]).astype(int)
    second = (first + 1 + (rng.random(len(people)) * (counts[people] - 1)).astype(int)) % counts[people]
    genuine = (by_label[starts[people] + first], by_label[starts[people] + second])
    a, b = rng.integers(0, len(labels), (2, most))
    impostor = (a[labels[a] != labels[b]], b[labels[a] != labels[b]])
    return tuple(_cosines(features, *pair) for pair in (genuine, impostor))


def _cosines(features, a, b):
    result = np.zeros(len(a), np.float32)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        one, two = (normalised(features[index[rows]].astype(np.float32)) for index in (a, b))
        result[rows] = (one * two).sum(1)
    return result


def error_rate(genuine, impostor):
    """Equal error rate, or None without pairs of one kind."""
    return equal_error_rate(genuine, impostor) if len(genuine) and len(impostor) else None


def leakage(features, reference, rng, most, worst, device="cpu", show=None):
    """Every image (at most ``most`` random ones) against every reference centre (R, D).

    Returns {images, largest, mean_of_largest, above: {threshold: share}} and the ``worst`` pairs as
    [(image, centre, similarity)].
    """
    chosen = rng.permutation(len(features))[:most] if most < len(features) else np.arange(len(features))
    others, best, place = directions(reference, device), np.zeros(len(chosen), np.float32), np.zeros(len(chosen), int)
    starts = range(0, len(chosen), BLOCK)
    for start in show(starts) if show else starts:
        rows = slice(start, start + BLOCK)
        values, places = (directions(features[chosen[rows]], device) @ others.T).max(1)
        best[rows], place[rows] = values.cpu(), places.cpu()
    summary = {
        "images": len(chosen),
        "reference_centres": len(reference),
        "largest": float(best.max()),
        "mean_of_largest": float(best.mean()),
        "above": {f"{t:g}": float((best > t).mean()) for t in (0.3, SEPARATE, 0.5, 0.6, 0.7)},
    }
    return summary, [(int(chosen[i]), int(place[i]), float(best[i])) for i in np.argsort(-best)[:worst]]


def frechet_distance(a, b):
    """Of two sets of features (N, D), (M, D): between the normal distributions with their means and covariances.

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
    return float(max(distance, 0))  # of two equal sets it is rounding, of either sign


def precision_and_recall(real, fake, neighbours=NEIGHBOURS):
    """Improved precision and recall (Kynkaanniemi et al., 2019) of features (N, D), (M, D); both counts > neighbours.

    Precision: share of ``fake`` within the real manifold, recall: the other way round.
    """
    return _share_within(real, fake, neighbours), _share_within(fake, real, neighbours)


def _share_within(manifold, points, neighbours):
    """Share of points (M, D) within the distance of some manifold point (N, D) to its k-th neighbour."""
    manifold, points = torch.from_numpy(np.float32(manifold)), torch.from_numpy(np.float32(points))
    radii = torch.cat([torch.cdist(b, manifold).kthvalue(neighbours + 1).values for b in manifold.split(BLOCK)])  # (N,)
    inside = [(torch.cdist(block, manifold) <= radii).any(1) for block in points.split(BLOCK)]
    return float(torch.cat(inside).float().mean())


def spread_within(values, labels):
    """Mean over people of the standard deviation of ``values`` (N,) within a person's images; None without any."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    deviations = [part.std() for part in np.split(values[order], starts[1:]) if len(part) > 1]
    return float(np.mean(deviations)) if deviations else None
