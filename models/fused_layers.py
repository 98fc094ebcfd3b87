"""Two layers whose backward pass PyTorch computes slowly on a CPU, rewritten for channels_last.

Both give the results of the layers they replace; measured gains stand in the README.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


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
        normed, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return F.silu(normed, inplace=True)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, bias, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        groups, dtype = mean.shape[1], x.dtype
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
        flat = x.permute(0, 2, 3, 1).reshape(n, h * w, c)  # (N, HW, C), no copy in channels_last
        gradient = gradient.permute(0, 2, 3, 1).reshape(n, h * w, c)  # (N, HW, C)

        normed = torch.addcmul(on_map(bias - mean * scale), flat, on_map(scale))  # (N, HW, C)
        dy = torch.ops.aten.silu_backward(gradient, normed)  # (N, HW, C)
        dy_sum = dy.sum(1, dtype=exact)  # (N, C)
        dyx_sum = ((dy * flat).sum(1, dtype=exact) - mean * dy_sum) * rstd  # (N, C): sum of dy * x^

        slope = -rstd * rstd * group_mean(weight * dyx_sum)  # (N, C), of x in dx
        offset = -rstd * group_mean(weight * dy_sum) - slope * mean  # (N, C)
        dx = torch.addcmul(on_map(offset), flat, on_map(slope)).addcmul_(dy, on_map(scale))  # (N, HW, C)
        dx = dx.reshape(n, h, w, c).permute(0, 3, 1, 2)  # (N, C, H, W)
        return dx, dyx_sum.sum(0).to(dtype), dy_sum.sum(0).to(dtype), None, None


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
