"""UIFace as a generator: identity vectors and noise in, faces out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from models.transfer import upload
from models.uiface.autoencoder import Autoencoder
from models.uiface.sampling import Sampling, Step, sample
from models.uiface.unet import UNet


class Drawn(NamedTuple):
    """``images`` (N, 3, 112, 112), not clipped; ``t0`` (N,) float32, the timestep from which each had its identity.

    t0 is -1 for a sample that never got it, which a ``stage_step`` of at least 1 rules out.
    """

    images: torch.Tensor
    t0: torch.Tensor


class UIFaceGenerator(nn.Module):
    """Vectors (N, 512) of any length and normal noise (N, C, h, w) -> Drawn.

    ``net`` and ``autoencoder`` are frozen.
    """

    def __init__(self, net: UNet, autoencoder: Autoencoder, sampling: Sampling):
        super().__init__()
        self.net, self.autoencoder, self.sampling = net, autoencoder, sampling
        self.architecture, self.trained_on = net.architecture, net.trained_on

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """The shape of a sample's noise."""
        side = self.architecture.latent_side
        return self.architecture.latent_channels, side, side

    def forward(self, vectors: torch.Tensor, noise: torch.Tensor) -> Drawn:
        t0 = torch.full((len(vectors),), -1.0, device=vectors.device)  # (N,)

        def note_partition(step: Step) -> None:
            t0.masked_fill_(step.identity & (t0 < 0), step.t)

        context = F.normalize(vectors.float())  # (N, 512)
        latents = sample(self.net, noise, context, self.sampling, note_partition)  # (N, C, h, w)
        return Drawn(self.autoencoder.decode_faces(latents), t0)

    def draw_noise(self, streams: Sequence[np.random.Generator], count: int) -> torch.Tensor:
        """Normal noise (count, C, h, w) float32: a row of each stream, and zeros after them."""
        noise = np.zeros((count, *self.noise_shape), np.float32)
        for slot, stream in enumerate(streams):
            noise[slot] = stream.standard_normal(self.noise_shape, np.float32)
        return upload(torch.from_numpy(noise), next(self.parameters()).device)
