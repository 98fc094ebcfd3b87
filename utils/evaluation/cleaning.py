"""Cleaning a dataset by the FR features of its images: what is left out, and why.

Cosines are exact and computed in blocks. Beside the features, which may be a memory map, memory holds a few bytes an
image and one centroid an identity.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from utils.evaluation.metrics import Device, normalised
from utils.generation.identity_sampling import directions

BLOCK = 2048
# Why an image is left out, by the number in Cleaning.reasons.
REASONS = ("kept", "unreadable", "outlier", "leak", "duplicate identity", "near-duplicate", "too few images")
KEPT, UNREADABLE, OUTLIER, LEAK, DUPLICATE, NEAR_DUPLICATE, TOO_FEW = range(len(REASONS))


@dataclass
class Limits:
    """The cosines that decide.

    ``same``: the lowest of two images of a cluster; ``method``: "neighbours", a cluster is all that resembles one
    image, or "dbscan", all that a chain of such images connects; ``identity``: the highest of the centroids of two
    identities; ``leak``: the highest of an image to a reference; ``image``: the highest of two images of an identity
    that are the same to the eye as well; ``least``: the fewest images of an identity.
    """

    same: float = 0.3
    method: str = "neighbours"
    identity: float = 0.6
    leak: float = 0.4
    image: float = 0.95
    least: int = 1


class Cleaning:
    """The verdict on each of N images of C identities, all of them kept at first.

    ``features`` (N, D), also a memory map; ``labels`` (N,), 0..C-1. ``reasons`` (N,): numbers in REASONS;
    ``similarities`` (N,): the cosine that decided; ``others`` (N,): to which reference (leak), identity (duplicate
    identity) or image (near-duplicate), or -1. ``merged`` (C,): the identity that each one is united with, or itself;
    images of an identity that is united with another have the reason "duplicate identity", but stay in a dataset whose
    labels can be changed.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, identities: int):
        self.features, self.labels, self.identities = features, labels, identities
        self.reasons = np.zeros(len(labels), np.int8)
        self.similarities = np.full(len(labels), np.nan, np.float32)
        self.others = np.full(len(labels), -1, np.int64)
        self.merged = np.arange(identities)

    def leave_out(self, rows: np.ndarray, reason: int, similarities: np.ndarray | float, others=-1) -> None:
        """Leave out some images (n,). ``similarities`` and ``others``: (n,), or one for all."""
        self.reasons[rows], self.similarities[rows], self.others[rows] = reason, similarities, others

    @property
    def united(self) -> np.ndarray:
        """Whether each image is part of a dataset in which duplicate identities are united, (N,) bool."""
        return np.isin(self.reasons, (KEPT, DUPLICATE))

    def groups(self, rows: np.ndarray, by: np.ndarray) -> Iterator[np.ndarray]:
        """The ``rows`` (n,) with the same number in ``by`` (n,), group by group."""
        if len(rows):
            order = np.argsort(by, kind="stable")
            yield from np.split(rows[order], np.flatnonzero(np.diff(by[order])) + 1)

    def units(self, rows: np.ndarray) -> np.ndarray:
        """The directions of the features of some rows (n,), (n, D) float32."""
        return normalised(np.asarray(self.features[rows], np.float32))

    def keep_clusters(self, limits: Limits) -> None:
        """Leave out the images outside the largest consistent cluster of their identity."""
        readable = np.flatnonzero(self.reasons == KEPT)
        for rows in self.groups(readable, self.labels[readable]):
            units = self.units(rows)  # (n, D)
            inside = largest_cluster(units, limits.same, limits.method)
            if not inside.all():
                centre = normalised(units[inside].sum(0, keepdims=True))[0]  # (D,)
                self.leave_out(rows[~inside], OUTLIER, units[~inside] @ centre)

    def centroids(self) -> tuple[np.ndarray, np.ndarray]:
        """(unit class centroids (C, D) of the kept images, their number (C,)); zeros without images."""
        kept = np.flatnonzero(self.reasons == KEPT)
        sums, counts = np.zeros((self.identities, self.features.shape[1]), np.float32), np.zeros(self.identities, int)
        for rows in self.groups(kept, self.labels[kept]):
            label = self.labels[rows[0]]
            sums[label], counts[label] = self.units(rows).sum(0), len(rows)
        return normalised(sums), counts

    def leave_out_leaks(self, reference: np.ndarray, limits: Limits, device: Device = "cpu") -> None:
        """Leave out images that resemble a row of ``reference`` (M, D), and identities most of whose images do."""
        reference, kept = directions(reference, device), np.flatnonzero(self.reasons == KEPT)
        for start in range(0, len(kept), BLOCK):
            rows = kept[start : start + BLOCK]
            similarity, nearest = nearest_of(self.units(rows), reference)
            leaks = similarity > limits.leak
            self.leave_out(rows[leaks], LEAK, similarity[leaks], nearest[leaks])
        centroids, left = self.centroids()
        similarity, nearest = nearest_of(centroids, reference)
        leaks = np.bincount(self.labels[self.reasons == LEAK], minlength=self.identities)
        gone = ((similarity > limits.leak) | (leaks > left)) & (left > 0)  # (C,)
        rows = kept[(self.reasons[kept] == KEPT) & gone[self.labels[kept]]]
        self.leave_out(rows, LEAK, similarity[self.labels[rows]], nearest[self.labels[rows]])

    def unite_duplicates(self, limits: Limits, device: Device = "cpu") -> None:
        """Find identities that are one person: the one with the most images stays, the others are united with it."""
        centroids, counts = self.centroids()
        component = np.arange(self.identities)
        for one, other in similar_pairs(centroids, limits.identity, device):
            edges = coo_array((np.ones(len(one), bool), (component[one], component[other])), 2 * (self.identities,))
            component = connected_components(edges, directed=False)[1][component]
        present = np.flatnonzero(counts)
        for people in self.groups(present, component[present]):
            self.merged[people] = people[np.argmax(counts[people])]  # of equal ones the first
        kept = np.flatnonzero(self.reasons == KEPT)
        united = np.flatnonzero(self.merged != np.arange(self.identities))  # (U,) identities
        similarity = np.zeros(self.identities, np.float32)
        similarity[united] = np.einsum("ud,ud->u", centroids[united], centroids[self.merged[united]])
        rows = kept[np.isin(self.labels[kept], united)]
        self.leave_out(rows, DUPLICATE, similarity[self.labels[rows]], self.merged[self.labels[rows]])

    def leave_out_near_duplicates(self, limits: Limits, same: Callable[[int, int], bool]) -> None:
        """Leave out images that are the same as an earlier one of their identity. ``same(row, other)``: to the eye."""
        rows = np.flatnonzero(self.united)
        # Images of the main identity come first, as they stay in any case.
        rows = rows[np.argsort(self.reasons[rows], kind="stable")]
        for group in self.groups(rows, self.merged[self.labels[rows]]):
            units, gone = self.units(group), np.zeros(len(group), bool)
            for start in range(0, len(group), BLOCK):
                cosines = units[start : start + BLOCK] @ units.T  # (B, n)
                for place, earlier in np.argwhere(cosines > limits.image):
                    later = start + place
                    if earlier < later and not gone[earlier] and not gone[later] and same(group[later], group[earlier]):
                        gone[later] = True
                        self.leave_out(group[[later]], NEAR_DUPLICATE, cosines[place, earlier], group[earlier])

    def leave_out_small(self, limits: Limits) -> None:
        """Leave out identities with too few images, those of their duplicates included."""
        rows = np.flatnonzero(self.united)
        main = self.merged[self.labels[rows]]
        counts = np.bincount(main, minlength=self.identities)
        self.leave_out(rows[counts[main] < limits.least], TOO_FEW, np.nan)


def largest_cluster(units: np.ndarray, lowest: float, method: str) -> np.ndarray:
    """Which of the unit features (n, D) of one identity are in its largest cluster, (n,) bool. See Limits."""
    if method == "dbscan":
        from sklearn.cluster import DBSCAN  # takes a second to import and is needed only here

        found = DBSCAN(eps=1 - lowest, min_samples=2, metric="cosine", algorithm="brute").fit_predict(units)
        if (found >= 0).any():
            return found == np.bincount(found[found >= 0]).argmax()
    counts, sums = np.zeros(len(units), int), units @ units.sum(0)  # (n,)
    for start in range(0, len(units), BLOCK):
        counts[start : start + BLOCK] = (units[start : start + BLOCK] @ units.T >= lowest).sum(1)
    centre = np.lexsort((-sums, -counts))[0]  # the most neighbours, of equal ones the most typical
    inside = units @ units[centre] >= lowest
    inside[centre] = True
    return inside


def nearest_of(units: np.ndarray, reference: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(cosine (n,), row (n,)) of the nearest of the unit ``reference`` (M, D) to each of the unit features (n, D)."""
    similarity, nearest = np.full(len(units), -2, np.float32), np.zeros(len(units), np.int64)
    for start in range(0, len(units), BLOCK):
        block = torch.from_numpy(units[start : start + BLOCK]).to(reference.device)
        for first in range(0, len(reference), 8 * BLOCK):
            best, place = (block @ reference[first : first + 8 * BLOCK].T).max(1)  # (B,), (B,)
            best, place = best.cpu().numpy(), place.cpu().numpy() + first
            rows = start + np.flatnonzero(best > similarity[start : start + BLOCK])
            similarity[rows], nearest[rows] = best[rows - start], place[rows - start]
    return similarity, nearest


def similar_pairs(centroids: np.ndarray, highest: float, device: Device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs i < j of the unit centroids (C, D) with a higher cosine: (i (n,), j (n,)) of a block at a time."""
    everyone = torch.from_numpy(centroids).to(device)
    for start in range(0, len(everyone), BLOCK):
        for first in range(start, len(everyone), 8 * BLOCK):
            cosines = everyone[start : start + BLOCK] @ everyone[first : first + 8 * BLOCK].T  # (B, 8 B)
            one, other = (cosines > highest).nonzero(as_tuple=True)
            one, other = one.cpu().numpy() + start, other.cpu().numpy() + first
            if (one < other).any():
                yield one[one < other], other[one < other]
