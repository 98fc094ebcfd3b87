"""The sizes of UIFace's UNet: the presets, and those that follow from the shapes of a weight file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

HEAD_WIDTH = 32  # channels of an attention head, which are also the number of its context tokens


@dataclass(frozen=True)
class Architecture:
    """The sizes of a UNet, by default the published ones. The shapes of weights decide all but the last two.

    ``width``: channels of the first level. ``multipliers``: for each level, its channels as a multiple of those of the
    level before. ``attention``: whether a level has attention. ``blocks``: number of blocks of a level on the way down;
    one more on the way up. ``context_width``: channels of the embedded context. ``vector_size``: values of an identity
    vector. ``latent_channels``, ``latent_side``: of the latents that the UNet is meant for; it takes any side that can
    be halved between all levels. ``groups``: of every GroupNorm; a group of a single channel, as in 32 groups of 32
    channels, loses its mean.
    """

    width: int = 96
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    attention: tuple[bool, ...] = (False, True, True, True)
    blocks: int = 2
    context_width: int = 256
    vector_size: int = 512
    latent_channels: int = 3
    latent_side: int = field(default=32, compare=False)
    groups: int = field(default=32, compare=False)

    @property
    def widths(self) -> list[int]:
        """The number of channels of each level."""
        widths = []
        for multiplier in self.multipliers:
            widths.append((widths[-1] if widths else self.width) * multiplier)
        return widths

    @property
    def shrinkage(self) -> int:
        """The factor between the sides of the first and the last level, a divisor of the side of the latents."""
        return 2 ** (len(self.multipliers) - 1)


PRESETS = {
    # faces of 128 pixels, latents of 3x32x32
    "uiface": Architecture(),
    # faces of 112 pixels, latents of 3x28x28, which three levels halve to 7x7
    "uiface_tiny": Architecture(32, (1, 2, 2), (False, True, True), context_width=64, latent_side=28, groups=8),
}


def architecture_of(state: Mapping[str, torch.Tensor]) -> Architecture:
    """The sizes with the shapes of a state dict; with those of a preset come its other values.

    Raises KeyError, with the key, if a weight is missing that decides them, and ValueError if no UNet has these shapes.
    """
    width, latent_channels = state["image_proj.weight"].shape[:2]
    levels: list[list[int]] = [[]]  # positions in ``down`` of the blocks of each level
    for index in range(1 + max(int(key.split(".")[1]) for key in ["down.0.", *state] if key.startswith("down."))):
        if f"down.{index}.conv.weight" in state:  # the convolution that halves the side, between two levels
            levels.append([])
        else:
            levels[-1].append(index)
    if len({len(blocks) for blocks in levels}) > 1:
        raise ValueError("levels with different numbers of blocks")
    widths = [state[f"down.{index}.res.conv1.weight"].shape[0] for index, *_ in levels]
    before = [width, *widths[:-1]]
    if any(wide % narrow for narrow, wide in zip(before, widths, strict=True)):
        raise ValueError(f"levels of {', '.join(map(str, widths))} channels")
    found = Architecture(
        width=width,
        multipliers=tuple(wide // narrow for narrow, wide in zip(before, widths, strict=True)),
        attention=tuple(f"down.{index}.attn.x_proj_in.weight" in state for index, *_ in levels),
        blocks=len(levels[0]),
        context_width=state["context_emb.weight"].shape[0],
        vector_size=state["context_emb.weight"].shape[1],
        latent_channels=latent_channels,
    )
    found = next((preset for preset in PRESETS.values() if preset == found), found)
    if any(width % found.groups for width in (found.width, found.context_width, *found.widths)):
        raise ValueError(f"levels of {', '.join(map(str, widths))} channels and a context of {found.context_width}")
    return found


def preset_name(architecture: Architecture) -> str | None:
    """The name of the preset with these sizes, or None."""
    return next((name for name, preset in PRESETS.items() if preset == architecture), None)
