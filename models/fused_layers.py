"""Two layers whose backward pass PyTorch computes slowly on a CPU, rewritten for channels_last.

Both give the results of the layers they replace; measured gains stand in the README.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

LARGE_MAP = 1024  # pixels from which PyTorch splits the statistics of one image between threads
WINDOW = 14


class GroupNormSiLU(nn.GroupNorm):
    """GroupNorm followed by SiLU: (N, C, H, W) -> (N, C, H, W). Keeps only the input for the backward pass."""

    def forward(self, x):
        return _GroupNormSiLU.apply(x, self.weight, self.bias, self.num_groups, self.eps)


class _GroupNormSiLU(torch.autograd.Function):
    """With x^ = (x - mean) / std and dy the gradient at the norm's output, dx = (w dy - <w dy> - x^ <w dy x^>) / std.

    <> is the mean over a group; it needs only two sums per channel, so all passes over the map are
    element-wise in its own memory order.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps):
        n, c, h, w = x.shape
        if x.device.type == "cpu" and h % WINDOW == w % WINDOW == 0 and h * w >= LARGE_MAP:
            square = x * x
            mean, rstd = moments(x, square, groups, eps)
            scale = rstd.repeat_interleave(c // groups, dim=1) * weight  # (N, C)
            shift = bias - mean.repeat_interleave(c // groups, dim=1) * scale  # (N, C)
            shift, scale = shift.to(x.dtype)[:, None], scale.to(x.dtype)[:, None]  # (N, 1, C)
            normed = torch.addcmul(shift, pixels(x), scale, out=pixels(square))  # (N, HW, C), in memory at hand
            normed = normed.reshape(n, h, w, c).permute(0, 3, 1, 2)  # (N, C, H, W)
        else:
            affine = (weight.to(x.dtype), bias.to(x.dtype))  # under autocast they are float32
            normed, mean, rstd = torch.native_group_norm(x, *affine, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return F.silu(normed, inplace=True)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, bias, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        groups, dtype, affine_dtype = mean.shape[1], x.dtype, weight.dtype
        exact = torch.promote_types(dtype, torch.float32)

        def per_channel(group_values):  # (N, G) -> (N, C)
            return group_values.repeat_interleave(c // groups, dim=1)

        def group_mean(channel_values):  # (N, C), sums over H W -> (N, C)
            return per_channel(channel_values.view(n, groups, -1).sum(2)) / (c // groups * h * w)

        def on_map(channel_values):  # (N, C) -> (N, 1, C)
            return channel_values.to(dtype)[:, None]

        weight, bias = weight.to(exact), bias.to(exact)  # (C,)
        mean, rstd = per_channel(mean.to(exact)), per_channel(rstd.to(exact))  # (N, C)
        scale = rstd * weight  # (N, C)
        flat, gradient = pixels(x), pixels(gradient)  # (N, HW, C)
        normed = torch.addcmul(on_map(bias - mean * scale), flat, on_map(scale))  # (N, HW, C)
        dy = torch.ops.aten.silu_backward(gradient, normed)  # (N, HW, C)
        dy_sum = dy.sum(1, dtype=exact)  # (N, C)
        dyx_sum = ((dy * flat).sum(1, dtype=exact) - mean * dy_sum) * rstd  # (N, C): sum of dy * x^

        slope = -rstd * rstd * group_mean(weight * dyx_sum)  # (N, C), of x in dx
        offset = -rstd * group_mean(weight * dy_sum) - slope * mean  # (N, C)
        dx = torch.addcmul(on_map(offset), flat, on_map(slope)).addcmul_(dy, on_map(scale))  # (N, HW, C)
        dx = dx.reshape(n, h, w, c).permute(0, 3, 1, 2)  # (N, C, H, W)
        return dx, dyx_sum.sum(0).to(affine_dtype), dy_sum.sum(0).to(affine_dtype), None, None


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


class FrozenPReLU(nn.PReLU):
    """PReLU whose slopes get no gradient: (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x):
        return _FrozenPReLU.apply(x, self.weight)


class _FrozenPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx, gradient):
        x, slope = ctx.saved_tensors
        derivative = F.prelu(torch.ones_like(x).copysign_(x), -slope)  # 1 where x > 0, the slope elsewhere
        return derivative.mul_(gradient), None
