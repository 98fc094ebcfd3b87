"""The noise schedule of UIFace, and the deterministic sampler DDIM (Song et al., 2021)."""

from __future__ import annotations

import torch

from models.errors import UserError

TIMESTEPS = 1000
BETAS = (1e-4, 0.02)  # the first and the last one, linear between them


def alpha_bars() -> torch.Tensor:
    """ᾱ_t, the share of the latent's variance that is signal at each timestep: (1000,), falling from .9999 to 4e-5."""
    betas = torch.linspace(*BETAS, TIMESTEPS, dtype=torch.float64)  # (1000,)
    return (1 - betas).cumprod(0).float()  # (1000,)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Latents at timesteps t (N,): x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, (N, C, H, W) float32."""
    bar = alpha_bars().to(latents.device)[t][:, None, None, None]  # (N, 1, 1, 1)
    return bar.sqrt() * latents + (1 - bar).sqrt() * noise  # (N, C, H, W)


def stride_of(steps: int) -> int:
    """The number of timesteps between two of ``steps`` sampling steps. Raises UserError unless 1 <= steps <= 1000."""
    if not 1 <= steps <= TIMESTEPS:
        raise UserError(f"{steps} sampling steps: must be a number from 1 to {TIMESTEPS}.")
    return TIMESTEPS // steps


def sampling_timesteps(stride: int) -> list[int]:
    """The timesteps of sampling in their order, the last of which is 0."""
    return list(range(0, TIMESTEPS, stride))[::-1]


def ddim_step(x: torch.Tensor, noise: torch.Tensor, t: int, stride: int, bars: torch.Tensor) -> torch.Tensor:
    """The latents one sampling step later: x and the predicted noise (N, C, H, W) at timestep t -> (N, C, H, W).

    x' = √ᾱ' x̂_0 + √(1 − ᾱ') ε with x̂_0 = (x − √(1 − ᾱ_t) ε) / √ᾱ_t. As in the released code, ᾱ' is that of timestep
    t − stride − 1 and not of t − stride, and 1 where there is none. ``bars``: the result of ``alpha_bars``.
    """
    bar, previous = bars[t], bars[t - stride - 1] if t > stride else torch.ones_like(bars[t])
    clean = (x - (1 - bar).sqrt() * noise) / bar.sqrt()  # (N, C, H, W)
    return previous.sqrt() * clean + (1 - previous).sqrt() * noise  # (N, C, H, W)
