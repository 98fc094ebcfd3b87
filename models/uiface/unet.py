"""The conditional UNet of UIFace, which predicts the noise in a latent (paper section 3.2).

Its modules have the names of the released code, so that a state dict of one is a state dict of the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from models.errors import UserError
from models.uiface.architecture import Architecture
from models.uiface.attention import Attended, AttentionBlock
from models.weight_files import freeze_for_inference

CONTEXT_DROPOUT = 0.25  # of the embedded context's elements in training: context partial dropout (CPD)
EMPTY_PROBABILITY = 0.2  # that a sample gets the empty context in training
LONGEST_PERIOD = 10_000


class TimeEmbedding(nn.Module):
    """Timesteps (N,) -> (N, 4 width): cosines and sines of ``width / 2`` frequencies each, through an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.lin1 = nn.Linear(width, 4 * width)
        self.act = nn.SiLU()
        self.lin2 = nn.Linear(4 * width, 4 * width)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        exponents = torch.arange(self.width // 2, device=t.device) / (self.width // 2)  # (width / 2,)
        frequencies = torch.exp(-math.log(LONGEST_PERIOD) * exponents)  # in float32, whatever the weights are
        angles = t[:, None].float() * frequencies  # (N, width / 2)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)  # (N, width)
        return self.lin2(self.act(self.lin1(waves.to(self.lin1.weight.dtype))))  # (N, 4 width)


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm, then scaled by 1 + scale and shifted: (N, C, H, W), (N, C), (N, C) -> (N, C, H, W)."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)

    def forward(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return (1 + scale[..., None, None]) * self.norm(x) + shift[..., None, None]  # (N, C, H, W)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the time before the second: (N, in_width, H, W), (N, T) -> (N, width, H, W)."""

    def __init__(self, in_width: int, width: int, architecture: Architecture):
        super().__init__()
        groups = architecture.groups
        self.norm1 = nn.GroupNorm(groups, in_width)
        self.act = nn.SiLU()
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1)
        self.time_emb = nn.Sequential(nn.SiLU(), nn.Linear(4 * architecture.width, width))
        self.scale_emb = nn.Linear(width, width)
        self.shift_emb = nn.Linear(width, width)
        self.norm2 = AdaptiveGroupNorm(width, groups)
        self.conv2 = zero(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Conv2d(in_width, width, 1) if in_width != width else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.act(self.norm1(x)))  # (N, width, H, W)
        time = self.time_emb(time)  # (N, width)
        h = self.norm2(h, self.scale_emb(time), self.shift_emb(time))  # (N, width, H, W)
        return self.conv2(self.act(h)) + self.shortcut(x)  # (N, width, H, W)


class Block(nn.Module):
    """A residual block, and an attention block where its level has attention."""

    def __init__(self, in_width: int, width: int, architecture: Architecture, attention: bool):
        super().__init__()
        self.res = ResidualBlock(in_width, width, architecture)
        self.attn = AttentionBlock(width, architecture.context_width, architecture.groups) if attention else None


class Middle(nn.Module):
    """Attention between two residual blocks."""

    def __init__(self, width: int, architecture: Architecture):
        super().__init__()
        self.res1 = ResidualBlock(width, width, architecture)
        self.attn = AttentionBlock(width, architecture.context_width, architecture.groups)
        self.res2 = ResidualBlock(width, width, architecture)


class Resize(nn.Module):
    """A strided convolution: (N, C, H, W) -> (N, C, H / 2, W / 2), or transposed (N, C, 2 H, 2 W)."""

    def __init__(self, width: int, up: bool):
        super().__init__()
        self.conv = nn.ConvTranspose2d(width, width, 4, 2, 1) if up else nn.Conv2d(width, width, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Output(NamedTuple):
    """``noise`` (N, C, H, W), the prediction, and the raw attention logits of all attention blocks in their order.

    ``self_attention``: (N, heads, HW, HW) each. ``cross_attention``: (N, heads, HW, 32 tokens) each.
    """

    noise: torch.Tensor
    self_attention: list[torch.Tensor]
    cross_attention: list[torch.Tensor]


class UNet(nn.Module):
    """Predicts the noise in latents: ``net(x, t, context)`` -> Output.

    ``x`` (N, C, H, W): noisy latents, whose sides can be halved between all levels. ``t`` (N,): timesteps, 0 to 999.
    ``context`` (N, 512): identity vectors of length 1, or None for the empty context. ``flag`` (N,) of bool: which
    samples get their identity; the others get the empty context. ``self_attention`` and ``cross_attention``: those of
    another pass, injected into this one (see ``AttentionBlock``).

    In training mode, elements of the embedded context are dropped, and random samples and the first of the batch get
    the empty context. Raises UserError if the latents or the vectors have other sizes than the network takes.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        a = self.architecture = architecture
        self.trained_on: dict[str, Any] | None = None  # the face encoder of the training vectors, where it is known
        self.autoencoder_sha256: str | None = None  # of the file of the training latents' autoencoder
        self.empty_context_embedding = nn.Parameter(torch.empty(a.context_width))
        self.image_proj = nn.Conv2d(a.latent_channels, a.width, 3, padding=1)
        self.time_emb = TimeEmbedding(a.width)
        self.context_emb = nn.Linear(a.vector_size, a.context_width)
        self.context_dropout = nn.Dropout(CONTEXT_DROPOUT)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        widths = a.widths
        skips = [a.width]  # channels of the maps that the way up takes from the way down
        for level, (width, attention) in enumerate(zip(widths, a.attention, strict=True)):
            for _ in range(a.blocks):
                self.down.append(Block(skips[-1], width, a, attention))
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(Resize(width, up=False))
                skips.append(width)
        self.middle = Middle(widths[-1], a)
        before = widths[-1]
        for level in reversed(range(len(widths))):
            last = widths[level - 1] if level else a.width  # the last block of a level has the next one's width
            for width in [widths[level]] * a.blocks + [last]:
                self.up.append(Block(before + skips.pop(), width, a, a.attention[level]))
                before = width
            if level:
                self.up.append(Resize(before, up=True))
        self.norm = nn.GroupNorm(a.groups, a.width)
        self.act = nn.SiLU()
        self.final = zero(nn.Conv2d(a.width, a.latent_channels, 3, padding=1))
        nn.init.normal_(self.empty_context_embedding)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        context: torch.Tensor | None = None,
        flag: torch.Tensor | None = None,
        self_attention: Sequence[torch.Tensor] | None = None,
        cross_attention: Sequence[torch.Tensor] | None = None,
    ) -> Output:
        self.check_latents(x)
        dtype = self.final.weight.dtype
        time = self.time_emb(t)  # (N, T)
        embedded = self.embed_context(context, flag, len(x))  # (N, context_width)
        self_given, cross_given = given_logits(self_attention), given_logits(cross_attention)
        attended: list[Attended] = []

        def attend(block: AttentionBlock | None, x: torch.Tensor) -> torch.Tensor:
            if block is None:
                return x
            attended.append(block(x, embedded, next(self_given), next(cross_given)))
            return attended[-1].map

        x = self.image_proj(x.to(dtype))  # (N, C, H, W)
        skips = [x]
        for module in self.down:
            x = module(x) if isinstance(module, Resize) else attend(module.attn, module.res(x, time))  # (N, C, H, W)
            skips.append(x)
        x = attend(self.middle.attn, self.middle.res1(x, time))  # (N, C, H, W)
        x = self.middle.res2(x, time)
        for module in self.up:
            if isinstance(module, Resize):
                x = module(x)  # (N, C, 2 H, 2 W)
            else:
                x = module.res(torch.cat([x, skips.pop()], dim=1), time)  # (N, C + skip, H, W) -> (N, C', H, W)
                x = attend(module.attn, x)
        noise = self.final(self.act(self.norm(x)))  # (N, latent_channels, H, W)
        return Output(noise.float(), [a.self_attention for a in attended], [a.cross_attention for a in attended])

    def embed_context(self, context: torch.Tensor | None, flag: torch.Tensor | None, count: int) -> torch.Tensor:
        """The embedded context (count, context_width) of the samples: of their identity, or the empty one."""
        empty = self.empty_context_embedding.expand(count, -1)  # (N, context_width)
        if context is None:
            return empty
        self.check_context(context)
        embedded = self.context_dropout(self.context_emb(context.to(empty.dtype)))  # (N, context_width)
        if self.training:
            without = torch.rand(count, device=context.device) < EMPTY_PROBABILITY  # (N,)
            without[0] = True  # so that the empty context always gets a gradient
            embedded = torch.where(without[:, None], empty.to(embedded.dtype), embedded)
        if flag is not None:
            embedded = torch.where(flag[:, None], embedded, empty.to(embedded.dtype))
        return embedded

    def check_context(self, context: torch.Tensor) -> None:
        """Raise UserError unless ``context`` is a matrix of identity vectors of the size that the network takes."""
        size = self.architecture.vector_size
        if context.ndim != 2 or context.shape[1] != size:
            raise UserError(
                f"contexts of shape {tuple(context.shape)}: this UNet takes identity vectors (N, {size}), of the face "
                "encoder that it was trained with."
            )

    def check_latents(self, x: torch.Tensor) -> None:
        """Raise UserError unless ``x`` (N, C, H, W) has the network's channels and sides that it can halve."""
        channels, factor = self.architecture.latent_channels, self.architecture.shrinkage
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % factor or x.shape[3] % factor:
            raise UserError(
                f"latents of shape {tuple(x.shape)}: this UNet takes (N, {channels}, H, W) with sides that are "
                f"multiples of {factor}; it is meant for sides of {self.architecture.latent_side}."
            )

    def for_inference(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> UNet:
        """Freeze and move the network. Returns it."""
        return freeze_for_inference(self, device, dtype)


def given_logits(logits: Sequence[torch.Tensor] | None) -> Iterator[torch.Tensor | None]:
    """The logits for each attention block in turn, None where there are none."""
    return repeat(None) if logits is None else iter(logits)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with zero weights, so that the block that ends in it begins as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
