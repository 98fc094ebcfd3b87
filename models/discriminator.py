"""The patch discriminator of the GAN phase (LSGAN, Mao et al., 2017; patches as in Isola et al., 2017).

Module names are the released ones, so that released files load.
"""

import torch
import torch.nn as nn

STEM = ((3, 4), (7, 8), (15, 8))  # kernels of the parallel convolutions, and what part of `width` each has
STRIDED = 3  # layers that halve the side, each twice as wide as the one before
GROUPS = 8


def leaky_relu():
    return nn.LeakyReLU(0.1)


class ParallelConvs(nn.Module):
    """Convolutions of several kernel sizes side by side, their channels joined."""

    def __init__(self, in_width, width):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_width, width // part, kernel, padding=kernel // 2) for kernel, part in STEM
        )

    def forward(self, x):
        return torch.cat([conv(x) for conv in self.convs], dim=1)  # (N, width / 2, H, W)


class Residual(nn.Module):
    """x + conv3(LeakyReLU(GroupNorm(x)))."""

    def __init__(self, width):
        super().__init__()
        self.block = nn.ModuleDict(
            {
                "groupnorm": nn.GroupNorm(GROUPS, width),
                "relu": leaky_relu(),
                "project": nn.Conv2d(width, width, 3, padding=1),
            }
        )

    def forward(self, x):
        return x + self.block["project"](self.block["relu"](self.block["groupnorm"](x)))


class Discriminator(nn.Module):
    """(N, 3, 112, 112) images -> (N, 1, 11, 11) logits, one a patch; real ones should be 1.

    ``width``: channels of the first strided layer, a multiple of 8; 128 is the released one. ``noise``: standard
    deviation of Gaussian noise on all it sees, under which the noise of cameras, which no vector knows, goes unnoticed.
    """

    def __init__(self, width=128, noise=0.0):
        super().__init__()
        self.noise = noise
        in_width = width // 2
        layers = [nn.Sequential(ParallelConvs(3, width), leaky_relu())]
        for _ in range(STRIDED):
            conv = nn.Conv2d(in_width, width, 4, stride=2, padding=1)
            layers.append(nn.Sequential(conv, leaky_relu(), nn.GroupNorm(GROUPS, width), Residual(width)))
            in_width, width = width, 2 * width
        self.layers = nn.ModuleList(layers)
        self.to_logits = nn.Sequential(nn.Conv2d(in_width, in_width, 1), leaky_relu(), nn.Conv2d(in_width, 1, 4))

    def forward(self, images):
        x = images + self.noise * torch.randn_like(images) if self.noise else images
        for layer in self.layers:
            x = layer(x)  # (N, C, 112, 112), then (N, 2C, 56, 56), ...
        return self.to_logits(x)  # (N, 1, 11, 11)
