"""Two layers that PyTorch computes slowly, or not in channels_last, rewritten for channels_last.

Both give the results of the layers they replace; measured gains stand in the README.
"""

from contextlib import nullcontext

import torch
import torch.nn as nn
import torch.nn.functional as F

LARGE_MAP = 1024  # pixels from which PyTorch splits the statistics of one image between threads
WINDOW = 14


class GroupNormSiLU(nn.GroupNorm):
    """GroupNorm followed by SiLU: (N, C, H, W) -> (N, C, H, W). Keeps only the input for the backward pass."""

    def forward(self, x):
        return group_norm_silu(x, self.weight, self.bias, self.num_groups, self.eps, exact=x.device.type != "cpu")


def group_norm_silu(x, weight, bias, groups, eps, exact):
    """SiLU of the group norm of x (N, C, H, W), in the dtype and memory format of x; weight and bias are (C,).

    ``exact``: statistics, products and sums are float32 whatever the dtype of x, also under autocast, and no kernel of
    PyTorch's own group norm is called: on CUDA that one refuses channels_last maps or copies them, depending on the
    version. Otherwise large maps have the statistics of ``moments``, smaller ones those of PyTorch.
    """
    autocasts = x.device.type != "meta"  # the one device without autocast; asking torch would break the graph of 2.6
    with torch.autocast(x.device.type, enabled=False) if exact and autocasts else nullcontext():
        return _GroupNormSiLU.apply(x, weight, bias, groups, eps, exact)


class _GroupNormSiLU(torch.autograd.Function):
    """With x^ = (x - mean) / std and dy the gradient at the norm's output, dx = (w dy - <w dy> - x^ <w dy x^>) / std.

    <> is the mean over a group; it needs only two sums per channel, so all passes over the map are
    element-wise in its own memory order.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps, exact):
        n, c, h, w = x.shape
        by_window = not exact and h % WINDOW == w % WINDOW == 0 and h * w >= LARGE_MAP
        if exact or by_window:
            if exact:
                mean, rstd = exact_moments(x, groups, eps)
                result = torch.empty_like(pixels(x))
            else:
                square = x * x
                mean, rstd = moments(x, square, groups, eps)
                result = pixels(square)  # memory at hand
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
    def backward(ctx, gradient):
        x, weight, bias, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        groups, dtype, affine_dtype = mean.shape[1], x.dtype, weight.dtype
        exact = torch.promote_types(dtype, torch.float32)
        map_dtype = exact if ctx.exact else dtype  # of products with a map

        def per_channel(group_values):  # (N, G) -> (N, C)
            return group_values.repeat_interleave(c // groups, dim=1)

        def group_mean(channel_values):  # (N, C), sums over H W -> (N, C)
            return per_channel(channel_values.view(n, groups, -1).sum(2)) / (c // groups * h * w)

        def on_map(channel_values):  # (N, C) -> (N, C)
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

        slope = -rstd * rstd * group_mean(weight * dyx_sum)  # (N, C), of x in dx
        offset = -rstd * group_mean(weight * dy_sum) - slope * mean  # (N, C)
        dx = scale_and_shift(flat, on_map(slope), on_map(offset))  # (N, HW, C)
        dx = as_map(dx.addcmul_(dy, on_map(scale)[:, None]), h, w)  # (N, C, H, W)
        return dx, dyx_sum.sum(0).to(affine_dtype), dy_sum.sum(0).to(affine_dtype), None, None, None


def scale_and_shift(flat, scale, shift, result=None):
    """``flat`` (N, HW, C) times ``scale`` plus ``shift``, (N, C) each, in the dtype of ``flat``, rounded once."""
    result = torch.empty_like(flat) if result is None else result
    return torch.addcmul(shift[:, None], flat, scale[:, None], out=result)  # (N, HW, C), one pass


def exact_product(a, b):
    """The product of two 16-bit maps (N, HW, C) in float32, where it cannot overflow, in one pass."""
    return torch.addcmul(torch.zeros((1, 1, 1), device=a.device), a, b)


def as_map(flat, height, width):
    """(N, HW, C) -> (N, C, H, W), which is channels_last."""
    return flat.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def pixels(x):
    """(N, C, H, W) -> (N, HW, C), without a copy in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def moments(x, square, groups, eps):
    """Mean and 1 / std of every group, (N, G) each.

    Averaged over small windows first, each by one thread: unlike PyTorch's own sums on large maps, the
    result does not depend on the number of threads or on the image's place in the batch.
    """

    exact = torch.promote_types(x.dtype, torch.float32)

    def group_mean(map):  # (N, C, H, W) -> (N, G)
        return F.avg_pool2d(map, WINDOW).to(exact).mean((2, 3)).unflatten(1, (groups, -1)).mean(2)

    mean = group_mean(x)
    variance = (group_mean(square) - mean**2).clamp(min=0)
    return mean, (variance + eps).rsqrt()


def exact_moments(x, groups, eps):
    """Mean and 1 / std of every group, (N, G) each, in float32 at least, in two passes over x.

    CUDA's reductions read 16-bit values as float32, without a copy; a compiler merges the cast with its reduction.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    flat = pixels(x)  # (N, HW, C)
    if torch.compiler.is_compiling():
        variance, mean = torch.var_mean(flat.to(exact), dim=1, correction=0)  # (N, C) each
    else:
        mean = flat.mean(1, dtype=exact)  # (N, C)
        variance = torch.var(flat, dim=1, correction=0, out=torch.empty_like(mean))  # (N, C)
    means = mean.unflatten(1, (groups, -1))  # (N, G, C / G)
    between = means.var(2, correction=0)  # (N, G): of the channels' means
    within = variance.unflatten(1, (groups, -1)).mean(2)  # (N, G)
    return means.mean(2), (within + between + eps).rsqrt()


class FrozenPReLU(nn.PReLU):
    """PReLU whose slopes get no gradient: (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x):
        return _FrozenPReLU.apply(x, self.weight)


class _FrozenPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, slope):
        slope = slope.to(x.dtype)  # float32 under autocast, while x is not
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx, gradient):
        x, slope = ctx.saved_tensors
        derivative = F.prelu(torch.ones_like(x).copysign_(x), -slope)  # 1 where x > 0, the slope elsewhere
        return derivative.mul_(gradient), None
