"""Noise in a cone around the identity vector, no wider than the nearest other identity allows.

IDperturb (CVPR 2026): with a unit vector v, a random unit vector u orthogonal to it and s ~ U[b, 1],

    v' = s v + sqrt(1 - s^2) u,

whose cosine to v is s; the norm of v is restored. Gaussian noise has a typical cosine, but no smallest one.

**The bound.** Let t_ij be the angle of the identity vectors i and j, and t_i the angle of i to the nearest j. A vector
within t_i / 2 of v_i lies, by the triangle inequality on the sphere, at least t_ij - t_i / 2 >= t_i / 2 from every v_j,
so it is never nearer to another identity vector than to its own. Each identity has the bound

    b_i = max(lower bound, cos(t_i / 2)) = max(lower bound, sqrt((1 + c_i) / 2)),

where c_i is the largest cosine of v_i to another vector of the whole set, not of a slice. Two equal vectors have the
bound 1, and so no noise. c_i is found in float32 and computed in float64 for the pair that was found.

**After AttrOP** in identity mode the noise is added to the optimised vector w, which is not v. The cosine of
w cos(t) + u sin(t) to v is a cos(t) + b sin(t) = R cos(t - d) with a = w.v, b = u.v, R = |(a, b)|, d = atan2(b, a). So
it is at least b_i up to the angle t = d + arccos(b_i / R), and s ~ U[cos(t), 1] keeps the image's vector in the cone
around v; without AttrOP that is U[b_i, 1]. If w itself is outside the cone, it is first moved to its edge, along the
great circle to v. In pose mode AttrOP comes after the noise and may leave the cone; the manifest has the final cosine.
"""

from collections.abc import Sequence

import numpy as np
import torch

from utils.generation.identity_sampling import directions

ROWS, COLUMNS = 2048, 16384  # of the blocks of cosines: 128 MB in float32
MARGIN = 1e-6  # by which a bound lies above its exact value, for the rounding of vectors to float32


def lower_bounds(
    vectors: np.ndarray, lowest: float, rows: Sequence[int], device: torch.device | str = "cpu"
) -> np.ndarray:
    """The bound b_i of the identities in ``rows`` against all ``vectors`` (K, D): (len(rows),) float64.

    ``lowest``: the lower bound for all, between 0 and 1. A bound depends neither on ``rows`` nor on the device, unless
    two others are equally near to within the rounding of float32.
    """
    bounds = np.full(len(rows), lowest)
    everyone = directions(vectors, device)
    for start in range(0, len(rows) if len(vectors) > 1 else 0, ROWS):
        block = np.asarray(rows[start : start + ROWS])
        others = nearest_others(everyone, torch.from_numpy(block).to(everyone.device))
        one, other = (np.asarray(vectors[chosen], np.float64) for chosen in (block, others))  # (B, D) each
        cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)  # (B,)
        bisectors = np.sqrt((1 + cosines.clip(-1, 1)) / 2)  # (B,) cosines of half the angles
        bounds[start : start + ROWS] = np.maximum(lowest, bisectors + MARGIN).clip(max=1)
    return bounds


def nearest_others(everyone: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
    """The row of ``everyone``, unit vectors (K, D), with the largest cosine to each of ``rows`` (B,), not itself."""
    block = everyone[rows]  # (B, D)
    best, nearest = block.new_full((len(rows),), -2), rows.clone()  # below every cosine
    for first in range(0, len(everyone), COLUMNS):
        cosines = block @ everyone[first : first + COLUMNS].T  # (B, C)
        here = (rows >= first) & (rows < first + cosines.shape[1])
        cosines[here, rows[here] - first] = -2
        highest, place = cosines.max(1)  # (B,), (B,)
        better = highest > best
        best, nearest = torch.where(better, highest, best), torch.where(better, place + first, nearest)
    return nearest.cpu().numpy()


def perturb_in_cone(vector: np.ndarray, identity: np.ndarray, bound: float, stream: np.random.Generator) -> np.ndarray:
    """Noise on ``vector`` (D,), whose result keeps a cosine of at least ``bound`` to ``identity``: (D,) float32.

    Draws D normal numbers and one uniform number; the norm of ``vector`` is kept.
    """
    noise, fraction = stream.standard_normal(vector.shape), stream.random()
    own, start = unit(identity), unit(vector)
    if start @ own < bound:
        start = bound * own + np.sqrt(1 - bound**2) * unit(start - (start @ own) * own)
    across = unit(noise - (noise @ start) * start)
    along, aside = start @ own, across @ own
    widest = np.arctan2(aside, along) + np.arccos(min(1, bound / np.hypot(along, aside)))
    lowest = np.cos(max(0, widest))
    s = lowest + (1 - lowest) * fraction
    noisy = s * start + np.sqrt(1 - s**2) * across
    return (noisy * np.linalg.norm(vector)).astype(np.float32)


def unit(vector: np.ndarray) -> np.ndarray:
    """A vector (D,) in float64, of length 1."""
    return vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """The cosine of two vectors (D,)."""
    return float(unit(one) @ unit(other))
