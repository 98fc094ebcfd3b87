"""Two layers that PyTorch computes slowly or not in channels_last, written for channels_last.

Both compute the functions of the layers that they replace.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

LARGE_MAP = 1024  # number of pixels from which PyTorch splits the statistics of one image between threads
WINDOW = 14  # side in pixels of the windows of ``moments``


class GroupNormSiLU(nn.GroupNorm):
    """GroupNorm and SiLU: (N, C, H, W) -> (N, C, H, W). The input is the only map kept for the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return group_norm_silu(x, self.weight, self.bias, self.num_groups, self.eps, exact=x.device.type != "cpu")


def group_norm_silu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, exact: bool
) -> torch.Tensor:
    """SiLU of the group norm of x (N, C, H, W), in the dtype and memory format of x; weight and bias are (C,).

    ``exact``: statistics, products and sums are computed in float32 at least for any dtype of x, also under autocast,
    without PyTorch's group norm, which on CUDA rejects or copies channels_last maps, depending on the version.
    Otherwise the statistics are those of ``moments`` for large maps and those of PyTorch for smaller ones.
    """
    autocasts = x.device.type != "meta"  # the only device without autocast; asking torch breaks the graph of torch 2.6
    with torch.autocast(x.device.type, enabled=False) if exact and autocasts else nullcontext():
        return _GroupNormSiLU.apply(x, weight, bias, groups, eps, exact)


class _GroupNormSiLU(torch.autograd.Function):
    """Forward: silu(w x^ + b), where x^ = (x - mean) / std with the statistics of the group.

    Backward: with dy the gradient with respect to w x^ + b, dx = (w dy - <w dy> - x^ <w dy x^>) / std, where <> is the
    mean over a group. It is computed from two sums per channel, so that all other passes over the map are element-wise
    and in its memory order.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, exact: bool
    ) -> torch.Tensor:
        n, c, h, w = x.shape
        by_window = not exact and h % WINDOW == w % WINDOW == 0 and h * w >= LARGE_MAP
        if exact or by_window:
            if exact:
                mean, rstd = exact_moments(x, groups, eps)
                result = torch.empty_like(pixels(x))  # (N, HW, C)
            else:
                square = x * x
                mean, rstd = moments(x, square, groups, eps)
                result = pixels(square)  # (N, HW, C): its memory is reused
            scale = rstd.repeat_interleave(c // groups, dim=1) * weight  # (N, C)
            shift = bias - mean.repeat_interleave(c // groups, dim=1) * scale  # (N, C)
            shift, scale = (values if exact else values.to(x.dtype) for values in (shift, scale))
            normed = as_map(scale_and_shift(pixels(x), scale, shift, result), h, w)  # (N, C, H, W)
        else:
            affine = (weight.to(x.dtype), bias.to(x.dtype))  # under autocast they are float32
            normed, mean, rstd = torch.native_group_norm(x, *affine, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.exact = exact
        return F.silu(normed, inplace=True)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        groups, dtype, affine_dtype = mean.shape[1], x.dtype, weight.dtype
        exact = torch.promote_types(dtype, torch.float32)
        map_dtype = exact if ctx.exact else dtype  # dtype of products with a map

        def per_channel(group_values: torch.Tensor) -> torch.Tensor:  # (N, G) -> (N, C)
            return group_values.repeat_interleave(c // groups, dim=1)

        def group_mean(channel_values: torch.Tensor) -> torch.Tensor:  # (N, C), sums over HW -> (N, C)
            # (N, G, C / G) -> (N, G) -> (N, C)
            return per_channel(channel_values.view(n, groups, -1).sum(2)) / (c // groups * h * w)

        def on_map(channel_values: torch.Tensor) -> torch.Tensor:  # (N, C) -> (N, C)
            return channel_values.to(map_dtype)

        weight, bias = weight.to(exact), bias.to(exact)  # (C,)
        mean, rstd = per_channel(mean.to(exact)), per_channel(rstd.to(exact))  # (N, C)
        scale = rstd * weight  # (N, C)
        flat, gradient = pixels(x), pixels(gradient)  # (N, HW, C)
        normed = scale_and_shift(flat, on_map(scale), on_map(bias - mean * scale))  # (N, HW, C)
        dy = torch.ops.aten.silu_backward(gradient, normed)  # (N, HW, C)
        dy_sum = dy.sum(1, dtype=exact)  # (N, C)
        product = torch.mul(dy, flat) if map_dtype == dtype else exact_product(dy, flat)  # (N, HW, C)
        dyx_sum = (product.sum(1, dtype=exact) - mean * dy_sum) * rstd  # (N, C): sum of dy * x^
        del product

        slope = -rstd * rstd * group_mean(weight * dyx_sum)  # (N, C): coefficient of x in dx
        offset = -rstd * group_mean(weight * dy_sum) - slope * mean  # (N, C)
        dx = scale_and_shift(flat, on_map(slope), on_map(offset))  # (N, HW, C)
        dx = as_map(dx.addcmul_(dy, on_map(scale)[:, None]), h, w)  # (N, C, H, W)
        return dx, dyx_sum.sum(0).to(affine_dtype), dy_sum.sum(0).to(affine_dtype), None, None, None


def scale_and_shift(
    flat: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, result: torch.Tensor | None = None
) -> torch.Tensor:
    """flat * scale + shift (N, HW, C) for ``flat`` (N, HW, C), ``scale`` and ``shift`` (N, C), rounded once.

    The result has the dtype of ``flat`` and is written to ``result`` if given.
    """
    result = torch.empty_like(flat) if result is None else result
    return torch.addcmul(shift[:, None], flat, scale[:, None], out=result)  # (N, HW, C), in one pass


def exact_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The product of two 16-bit maps (N, HW, C) in float32, in which it cannot overflow, in one pass."""
    return torch.addcmul(torch.zeros((1, 1, 1), device=a.device), a, b)


def as_map(flat: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A view (N, C, H, W), in channels_last, of pixels (N, HW, C)."""
    return flat.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # (N, HW, C) -> (N, H, W, C) -> (N, C, H, W)


def pixels(x: torch.Tensor) -> torch.Tensor:
    """The pixels (N, HW, C) of a map (N, C, H, W): a view if the map is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, C, H, W) -> (N, H, W, C) -> (N, HW, C)


def moments(x: torch.Tensor, square: torch.Tensor, groups: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / std of each group of x (N, C, H, W), (N, G) each. ``square``: x * x.

    Small windows are averaged first, each by one thread, so that the result depends neither on the number of threads
    nor on the index of the image in the batch. PyTorch's sums over large maps depend on both.
    """
    exact = torch.promote_types(x.dtype, torch.float32)

    def group_mean(map: torch.Tensor) -> torch.Tensor:  # (N, C, H, W) -> (N, G)
        windows = F.avg_pool2d(map, WINDOW).to(exact)  # (N, C, H / 14, W / 14)
        return windows.mean((2, 3)).unflatten(1, (groups, -1)).mean(2)  # (N, C) -> (N, G, C / G) -> (N, G)

    mean = group_mean(x)
    variance = (group_mean(square) - mean**2).clamp(min=0)
    return mean, (variance + eps).rsqrt()


def exact_moments(x: torch.Tensor, groups: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / std of each group of x (N, C, H, W), (N, G) each, in float32 at least, in two passes over x.

    CUDA's reductions convert 16-bit values to float32 without a copy, and a compiler fuses the cast and the reduction.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    flat = pixels(x)  # (N, HW, C)
    if torch.compiler.is_compiling():
        variance, mean = torch.var_mean(flat.to(exact), dim=1, correction=0)  # (N, C) each
    else:
        mean = flat.mean(1, dtype=exact)  # (N, C)
        variance = torch.var(flat, dim=1, correction=0, out=torch.empty_like(mean))  # (N, C)
    means = mean.unflatten(1, (groups, -1))  # (N, G, C / G)
    between = means.var(2, correction=0)  # (N, G): variance of the channels' means
    within = variance.unflatten(1, (groups, -1)).mean(2)  # (N, G)
    return means.mean(2), (within + between + eps).rsqrt()


class FrozenPReLU(nn.PReLU):
    """PReLU whose slopes get no gradient: (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _FrozenPReLU.apply(x, self.weight)


class _FrozenPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        slope = slope.to(x.dtype)  # under autocast the slope is float32 and x is not
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, slope = ctx.saved_tensors
        derivative = F.prelu(torch.ones_like(x).copysign_(x), -slope)  # 1 where x > 0, the slope elsewhere
        return derivative.mul_(gradient), None
