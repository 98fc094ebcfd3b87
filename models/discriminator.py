"""The patch discriminator of the GAN phase (LSGAN, Mao et al., 2017; patches as in Isola et al., 2017).

The modules have the names of the released code, so that released checkpoints load.
"""

import torch
import torch.nn as nn

STEM = ((3, 4), (7, 8), (15, 8))  # (kernel size, divisor d) of the parallel convolutions with width / d channels
STRIDED = 3  # number of layers that halve the side; each is twice as wide as the previous one
GROUPS = 8


def leaky_relu() -> nn.LeakyReLU:
    """The activation of all layers."""
    return nn.LeakyReLU(0.1)


class ParallelConvs(nn.Module):
    """Parallel convolutions of several kernel sizes, concatenated: (N, in_width, H, W) -> (N, width / 2, H, W)."""

    def __init__(self, in_width: int, width: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_width, width // part, kernel, padding=kernel // 2) for kernel, part in STEM
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([conv(x) for conv in self.convs], dim=1)  # (N, width / 2, H, W)


class Residual(nn.Module):
    """x + conv3(LeakyReLU(GroupNorm(x))): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.block = nn.ModuleDict(
            {
                "groupnorm": nn.GroupNorm(GROUPS, width),
                "relu": leaky_relu(),
                "project": nn.Conv2d(width, width, 3, padding=1),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block["project"](self.block["relu"](self.block["groupnorm"](x)))


class Discriminator(nn.Module):
    """Images (N, 3, 112, 112) -> one logit for each patch, (N, 1, 11, 11); the target of real patches is 1.

    ``width``: channels of the first strided layer, a multiple of 8 (released: 128). ``noise``: standard deviation of
    Gaussian noise added to all input images. It hides camera noise, which a vector cannot describe and by which real
    photos could otherwise be told from generated images.
    """

    def __init__(self, width: int = 128, noise: float = 0.0):
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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images + self.noise * torch.randn_like(images) if self.noise else images
        for layer in self.layers:
            x = layer(x)  # (N, width / 2, 112, 112), (N, width, 56, 56), (N, 2 width, 28, 28), (N, 4 width, 14, 14)
        return self.to_logits(x)  # (N, 1, 11, 11)
