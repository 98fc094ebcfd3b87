"""Masks of the rows of the feature map, and the distribution of the mask rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from models.transfer import upload

MAP_SIDE = 7
ROWS = MAP_SIDE * MAP_SIDE  # 49 rows (tokens) of the feature map


@dataclass(frozen=True)
class TokenMask:
    """The rows of the feature map that are dropped before the encoder, and those replaced by the image feature.

    ``kept`` (N, K): ascending indices, 0..48, of the rows that are not dropped. ``masked`` (N, 49) bool: rows replaced
    by the image feature; a dropped row is always masked.
    """

    kept: torch.Tensor
    masked: torch.Tensor

    @classmethod
    def from_noise(cls, noise: torch.Tensor, drop_ratio: float, mask_rate: float | torch.Tensor) -> TokenMask:
        """Drop the ``ceil(49 * drop_ratio)`` rows with the smallest noise, and mask ``ceil(49 * mask_rate)`` of them.

        ``noise`` (N, 49): any real numbers. ``drop_ratio``: in [0, 1], the same for all samples. ``mask_rate``: a
        number or a tensor (N,) in [0, 1]; if it is below the drop ratio, only the dropped rows are masked. Raises
        ValueError on other shapes or ranges.
        """
        if noise.ndim != 2 or noise.shape[1] != ROWS:
            raise ValueError(f"mask noise must have shape (N, {ROWS}), not {tuple(noise.shape)}")
        rate = torch.as_tensor(mask_rate, dtype=torch.float64, device=noise.device).expand(len(noise))  # (N,)
        if not 0 <= drop_ratio <= 1 or not ((rate >= 0) & (rate <= 1)).all():
            raise ValueError("drop ratio and mask rate must lie in [0, 1]")
        drop_count = math.ceil(ROWS * drop_ratio)
        mask_count = torch.ceil(ROWS * rate).clamp(min=drop_count)  # (N,)
        rank = noise.argsort(dim=1).argsort(dim=1)  # (N, 49): 0 = smallest noise
        dropped = (rank < drop_count).to(torch.uint8)  # (N, 49)
        kept = dropped.argsort(dim=1, stable=True)[:, : ROWS - drop_count]  # (N, K)
        return cls(kept=kept, masked=rank < mask_count[:, None])

    def to(self, device: torch.device | str) -> TokenMask:
        """The mask on another device; from the CPU to a GPU in a single, non-blocking copy."""
        device = torch.device(device)
        if self.kept.device.type != "cpu" or device.type != "cuda":
            return TokenMask(self.kept.to(device), self.masked.to(device))
        packed = upload(torch.cat([self.masked, self.kept], dim=1).to(torch.uint8), device)  # (N, 49 + K)
        return TokenMask(kept=packed[:, ROWS:].long(), masked=packed[:, :ROWS].bool())

    def __len__(self) -> int:
        return len(self.kept)


@dataclass(frozen=True)
class MaskRates:
    """The distribution of mask rates: a normal(mu, std) truncated to [minimum, maximum].

    ``minimum`` is also the fraction of dropped rows. Raises ValueError unless 0 <= minimum <= maximum <= 1, std >= 0.
    """

    minimum: float = 0.1
    maximum: float = 1.0
    mu: float = 0.15
    std: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum <= 1 or self.std < 0:
            raise ValueError("mask ratios need 0 <= min <= max <= 1 and std >= 0")

    def draw(self, stream: np.random.Generator) -> tuple[np.ndarray, float]:
        """Draw the mask of an image: noise (49,), uniform in [0, 1), and the mask rate."""
        noise = stream.random(ROWS)
        return noise, self.rate(stream.random())

    def draw_masks(self, streams: Sequence[np.random.Generator]) -> TokenMask:
        """Draw the masks of a batch, that of sample i from ``streams[i]``."""
        noise, rates = zip(*map(self.draw, streams), strict=True)
        noise = torch.from_numpy(np.stack(noise))  # (N, 49)
        return TokenMask.from_noise(noise, self.minimum, torch.tensor(rates, dtype=torch.float64))

    def rate(self, uniform: float) -> float:
        """The mask rate for a uniform draw u in [0, 1), by the inverse CDF of the truncated normal:

        mu + std * Phi^-1(Phi(a) + u (Phi(b) - Phi(a))),   a, b = (minimum - mu) / std, (maximum - mu) / std
        """
        if self.std == 0 or self.minimum == self.maximum:
            return min(max(self.mu, self.minimum), self.maximum)
        normal = NormalDist(self.mu, self.std)
        low, high = normal.cdf(self.minimum), normal.cdf(self.maximum)
        quantile = min(max(low + uniform * (high - low), 1e-300), 1 - 1e-16)
        return min(max(normal.inv_cdf(quantile), self.minimum), self.maximum)
