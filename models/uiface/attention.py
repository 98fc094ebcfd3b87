"""The attention of UIFace's UNet, whose logits can be read and replaced (paper section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from einops import rearrange

from models.uiface.architecture import HEAD_WIDTH

INJECTED_SHARE = 0.5  # of the given statistics in those of the cross-attention


class Attention(nn.Module):
    """Multi-head attention from the places of x (N, C, Q) to tokens (N, C', K), in two steps.

    ``logits(x, tokens)`` are q k / sqrt(d), (N, H, Q, K), and ``forward(tokens, logits)`` is (N, C, Q), the mean of the
    tokens' values with the softmax of any logits, those or given ones.
    """

    def __init__(self, width: int, token_width: int):
        super().__init__()
        self.to_q = nn.Conv1d(width, width, 1)
        self.to_k = nn.Conv1d(token_width, width, 1)
        self.to_v = nn.Conv1d(token_width, width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def logits(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        scale = HEAD_WIDTH**-0.25  # of queries and keys alike, so that float16 does not overflow
        queries = rearrange(self.to_q(x) * scale, "n (h d) q -> n h q d", d=HEAD_WIDTH)  # (N, C, Q) -> (N, H, Q, d)
        keys = rearrange(self.to_k(tokens) * scale, "n (h d) k -> n h d k", d=HEAD_WIDTH)  # (N, C, K) -> (N, H, d, K)
        return queries @ keys  # (N, H, Q, K)

    def forward(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        values = rearrange(self.to_v(tokens), "n (h d) k -> n h k d", d=HEAD_WIDTH)  # (N, C, K) -> (N, H, K, d)
        mean = logits.softmax(-1, dtype=torch.float32).to(values.dtype) @ values  # (N, H, Q, d)
        return self.proj_out(rearrange(mean, "n h q d -> n (h d) q"))  # (N, H, Q, d) -> (N, C, Q)


def blend_statistics(logits: torch.Tensor, given: torch.Tensor, share: float = INJECTED_SHARE) -> torch.Tensor:
    """Logits (N, H, Q, K) whose mean and deviation over the K tokens are moved towards those of given logits.

    This is AdaIN (Huang and Belongie, 2017) for each head and place: with means m, m' and standard deviations s, s' of
    the own and the given logits A and A', it is s* (A - m) / s + m*, with m* = (1 - share) m + share m', and so s*.
    """
    deviation, mean = torch.std_mean(logits.float(), dim=-1, keepdim=True)  # (N, H, Q, 1) each
    given_deviation, given_mean = torch.std_mean(given.float(), dim=-1, keepdim=True)  # (N, H, Q, 1) each
    tiny = torch.finfo(torch.float32).tiny  # where all tokens have the same logit
    standardised = (logits - mean) / deviation.clamp(min=tiny)  # (N, H, Q, K)
    return standardised * torch.lerp(deviation, given_deviation, share) + torch.lerp(mean, given_mean, share)


class Attended(NamedTuple):
    """The result of an attention block: the map (N, C, H, W), and the logits that are its own.

    ``self_attention`` (N, heads, HW, HW); ``cross_attention`` (N, heads, HW, tokens). They are computed from the map
    and the context, also where given ones took their place.
    """

    map: torch.Tensor
    self_attention: torch.Tensor
    cross_attention: torch.Tensor


class AttentionBlock(nn.Module):
    """Self-attention, cross-attention to the context and a feed-forward network: (N, C, H, W) -> Attended.

    Given self-attention logits take the place of the own ones. Given cross-attention logits give the own ones half of
    their mean and deviation: see ``blend_statistics``.
    """

    def __init__(self, width: int, context_width: int, groups: int):
        super().__init__()
        self.context_width = context_width
        self.x_proj_in = nn.Conv2d(width, width, 1)
        self.x_proj_out = nn.Conv2d(width, width, 1)
        self.self_attention = Attention(width, width)
        self.c_proj_in = nn.Linear(context_width, context_width * HEAD_WIDTH)
        self.cross_attention = Attention(width, context_width)
        self.x_norm = nn.GroupNorm(groups, width)  # one for all three
        self.c_norm = nn.GroupNorm(groups, context_width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        nn.init.zeros_(self.x_proj_out.weight)
        nn.init.zeros_(self.x_proj_out.bias)

    def forward(
        self,
        image_map: torch.Tensor,
        context: torch.Tensor,
        self_given: torch.Tensor | None = None,
        cross_given: torch.Tensor | None = None,
    ) -> Attended:
        x = self.x_proj_in(image_map).flatten(2)  # (N, C, H, W) -> (N, C, HW)
        tokens = self.c_norm(self.c_proj_in(context).unflatten(1, (self.context_width, -1)))  # (N, C', tokens)

        normed = self.x_norm(x)
        self_own = self.self_attention.logits(normed, normed)  # (N, heads, HW, HW)
        x = x + self.self_attention(normed, self_own if self_given is None else self_given)  # (N, C, HW)

        cross_own = cross = self.cross_attention.logits(self.x_norm(x), tokens)  # (N, heads, HW, tokens)
        if cross_given is not None:
            cross = blend_statistics(cross_own, cross_given)
        x = x + self.cross_attention(tokens, cross)  # (N, C, HW)

        x = x + self.ff(self.x_norm(x).mT).mT  # (N, C, HW)
        x = self.x_proj_out(x.unflatten(2, image_map.shape[2:]))  # (N, C, HW) -> (N, C, H, W)
        return Attended(image_map + x, self_own, cross_own)
