"""The image decoder, which turns a 7x7 feature map into a 112x112 image (paper section 3.1)."""

from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F

from models.fused_layers import GroupNormSiLU

MAP_CHANNELS = 256  # channels of the 7x7 feature map
WIDTH_MULTIPLIERS = (4, 2, 2, 1, 1)  # of the five levels, from 7x7 to 112x112
BLOCKS_PER_LEVEL = 2
NARROW = 128  # number of channels below which Upsample is not fused
GROUPS = 32  # largest number of groups of a GroupNorm


def norm_silu(width: int, group_width: int) -> GroupNormSiLU:
    """GroupNorm and SiLU on ``width`` channels, in groups of at least ``group_width``."""
    return GroupNormSiLU(min(GROUPS, width // group_width), width, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and SiLU, with a shortcut: (N, in_width, H, W) -> (N, width, H, W).

    If the widths differ, h + shortcut(h) is returned, where h is the result of the convolutions: the 1x1 shortcut is
    not applied to the input, because the released weights were trained this way.
    """

    def __init__(self, in_width: int, width: int, group_width: int = 1):
        super().__init__()
        self.norm1 = norm_silu(in_width, group_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1, bias=False)
        self.norm2 = norm_silu(width, group_width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1, bias=False) if in_width != width else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.norm1(x))  # (N, width, H, W)
        h = self.conv2(self.norm2(h))  # (N, width, H, W)
        return h + (x if self.shortcut is None else self.shortcut(h))


class Upsample(nn.Conv2d):
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution, computed as one transposed convolution.

    (N, C, H, W) -> (N, C, 2 H, 2 W). The nine taps fall on only four different source pixels, so adding the taps of the
    same pixel first gives the same result with 4/9 of the FLOPs and without the enlarged map. Narrow maps are upsampled
    explicitly: they are cheap, and the rounding of the CPU kernel would depend on the number of threads.
    """

    def __init__(self, width: int):
        super().__init__(width, width, 3, padding=1)
        self.register_buffer("fused", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_channels < NARROW:
            return super().forward(F.interpolate(x, scale_factor=2))  # (N, C, 2H, 2W)
        weight = self.transposed_weight() if self.fused is None else self.fused
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)  # (N, C, 2H, 2W)

    def fuse(self) -> None:
        """Compute the transposed kernel once, for inference. Loading other weights discards it."""
        self.fused = self.transposed_weight().detach()

    def _load_from_state_dict(self, *args, **kwargs):
        self.fused = None
        super()._load_from_state_dict(*args, **kwargs)

    def transposed_weight(self) -> torch.Tensor:
        """The (in, out, 4, 4) kernel of the equivalent stride-2 transposed convolution."""
        taps = self.weight.flip(2, 3).transpose(0, 1)  # (in, out, 3, 3)
        taps = F.pad(taps, (0, 1)) + F.pad(taps, (1, 0))  # (in, out, 3, 4)
        taps = F.pad(taps, (0, 0, 0, 1)) + F.pad(taps, (0, 0, 1, 0))  # (in, out, 4, 4)
        return taps.contiguous(memory_format=torch.channels_last)


class Level(nn.Module):
    """Residual blocks at one resolution, followed by upsampling if ``upsample``.

    (N, in_width, H, W) -> (N, width, H, W) or (N, width, 2 H, 2 W).
    """

    def __init__(self, in_width: int, width: int, group_width: int, upsample: bool):
        super().__init__()
        widths = [in_width] + [width] * BLOCKS_PER_LEVEL
        self.blocks = nn.Sequential(*(ResidualBlock(a, b, group_width) for a, b in pairwise(widths)))
        self.upsample = Upsample(width) if upsample else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(x)  # (N, width, H, W)
        return x if self.upsample is None else self.upsample(x)


class ImageDecoder(nn.Module):
    """Feature maps (N, 256, 7, 7) -> images (N, 3, 112, 112), roughly in [-1, 1] and not clipped.

    ``base_width``: channels of the last level (128 in the released presets). ``group_width``: smallest number of
    channels of a GroupNorm's group; a group of a single channel, as in 32 groups of 32 channels, loses its mean.
    """

    def __init__(self, base_width: int, group_width: int = 1):
        super().__init__()
        widths = [base_width * multiplier for multiplier in WIDTH_MULTIPLIERS]
        self.conv_in = nn.Conv2d(MAP_CHANNELS, widths[0], 3, padding=1)
        self.middle = nn.Sequential(*(ResidualBlock(widths[0], widths[0], group_width) for _ in range(2)))
        steps = list(pairwise(widths[:1] + widths))  # (in_width, width) of each level
        self.levels = nn.Sequential(
            *(Level(*step, group_width, upsample=i < len(steps) - 1) for i, step in enumerate(steps))
        )
        self.norm_out = norm_silu(widths[-1], group_width)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def fuse(self) -> None:
        """Prepare for inference with the present weights: see ``Upsample.fuse``."""
        for level in self.levels:
            if level.upsample is not None:
                level.upsample.fuse()

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        x = self.middle(self.conv_in(feature_map))  # (N, 4c, 7, 7)
        x = self.levels(x)  # (N, c, 112, 112)
        return self.conv_out(self.norm_out(x))  # (N, 3, 112, 112)
