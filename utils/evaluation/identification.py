"""Face identification (1:N): whose photo in a gallery is most similar to that of a probe."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

BLOCK = 256  # probes that are compared with the whole gallery at a time


def unit_rows(features: np.ndarray) -> np.ndarray:
    """The rows of (N, D) at length 1; rows of zeros stay."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)


def match_ranks(
    probes: np.ndarray, probe_ids: np.ndarray, gallery: np.ndarray, gallery_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each probe (P,): the number of others in the gallery that are at least as similar as its own identity's best.

    Also the similarities (P,) of that best one. ``probes`` (P, D) and ``gallery`` (G, D) have length 1. A probe
    whose identity is not in the gallery has G others, and the similarity -inf.
    """
    ranks, best = np.empty(len(probes), np.int64), np.empty(len(probes), np.float32)
    for start in range(0, len(probes), BLOCK):
        chosen = slice(start, start + BLOCK)
        similarities = probes[chosen] @ gallery.T  # (B, G)
        own = probe_ids[chosen, None] == gallery_ids  # (B, G)
        best[chosen] = np.where(own, similarities, -np.inf).max(1)
        ranks[chosen] = (~own & (similarities >= best[chosen, None])).sum(1)
    ranks[np.isneginf(best)] = len(gallery)
    return ranks, best


def rank_rates(ranks: np.ndarray, gallery_size: int, wanted: Iterable[int]) -> dict[str, float]:
    """{k: share of the probes whose identity is among the k most similar}, of the probes that are in the gallery."""
    mated = ranks[ranks < gallery_size]
    return {str(k): float((mated < k).mean()) for k in wanted}


def identification_rates(
    probes: np.ndarray, probe_ids: np.ndarray, gallery: np.ndarray, gallery_ids: np.ndarray, rates: Sequence[float]
) -> dict[str, float]:
    """{rate: share of the probes found at it}: true positive at given false positive identification rates.

    As InsightFace's IJB evaluation counts it: the threshold of a rate is the similarity that ceil(rate * P) comparisons
    of a probe with another identity reach. ``probes``, ``gallery``: as in ``match_ranks``.
    """
    allowed = [math.ceil(rate * len(probes)) for rate in rates]
    highest = np.empty(0, np.float32)  # similarities to other identities, as many as are allowed
    for start in range(0, len(probes), BLOCK):
        chosen = slice(start, start + BLOCK)
        similarities = probes[chosen] @ gallery.T  # (B, G)
        others = similarities[probe_ids[chosen, None] != gallery_ids]
        highest = np.sort(np.concatenate([highest, others]))[::-1][: max(allowed)]
    _, best = match_ranks(probes, probe_ids, gallery, gallery_ids)
    mated = best[~np.isneginf(best)]
    return {
        f"{rate:g}": float((mated > highest[count - 1]).mean()) if count <= len(highest) else None
        for rate, count in zip(rates, allowed, strict=True)
    }
