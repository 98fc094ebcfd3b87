"""Two-stage sampling of UIFace, with adaptive partition and attention injection (paper section 3.3).

The first stage draws a face without an identity, whose pose, light and expression are therefore free, and the second
one gives it the identity. A sample may get its identity early: once its attention to the context has settled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.errors import UserError
from models.uiface.schedule import TIMESTEPS, alpha_bars, ddim_step, sampling_timesteps, stride_of
from models.uiface.unet import Output, UNet

UNIT_TOLERANCE = 1e-3  # of the length of a context that counts as 1


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn; for the meaning of the numbers see ``two_stage_ddim``.

    Raises UserError if a number is out of its range.
    """

    steps: int = 50
    threshold: float = 0.006
    stage_step: int = 500
    guidance: float = 1.0
    injection: bool = True

    def __post_init__(self):
        stride_of(self.steps)
        if not self.threshold >= 0:  # also NaN
            raise UserError(
                f"threshold {self.threshold}: must be at least 0, with which no sample gets its identity early."
            )
        if not 0 <= self.stage_step <= TIMESTEPS:
            raise UserError(f"stage_step {self.stage_step}: must be a timestep from 0 to {TIMESTEPS}.")
        if not math.isfinite(self.guidance):
            raise UserError(f"guidance {self.guidance}: must be a finite number; 0 is no guidance.")

    @property
    def timesteps(self) -> list[int]:
        """The timesteps in the order of sampling, the last of which is 0."""
        return sampling_timesteps(stride_of(self.steps))

    @property
    def note(self) -> str | None:
        """A line for the user where the steps do not divide 1000."""
        if len(self.timesteps) == self.steps:
            return None
        stride = stride_of(self.steps)
        return (
            f"{self.steps} steps do not divide {TIMESTEPS}: one timestep in {stride} makes {len(self.timesteps)} steps."
        )


class Step(NamedTuple):
    """What a sampling step at timestep ``t`` did.

    ``identity`` (N,) of bool: which samples had their identity in it. ``distance`` (N,): d_t, how far the attention map
    has moved since the step before; None in the first step and in the second stage.
    """

    t: int
    identity: torch.Tensor
    distance: torch.Tensor | None


@torch.no_grad()
def two_stage_ddim(
    net: UNet,
    noise: torch.Tensor,
    context: torch.Tensor,
    steps: int = 50,
    threshold: float = 0.006,
    stage_step: int = 500,
    guidance: float = 1.0,
    injection: bool = True,
    on_step: Callable[[Step], None] | None = None,
) -> torch.Tensor:
    """Latents (N, C, H, W) of faces with the identity vectors ``context`` (N, 512), from normal ``noise`` (N, C, H, W).

    Every (1000 // steps)-th timestep is taken, from the highest one to 0, with passes A and B of the network at x_t:

    - t >= ``stage_step``: A has the empty context; B has the identity where the sample's flag is set, else the empty
      context, and A's self-attention. ε = ε_B. Then the flag of each sample is set for good where
      d_t = mean |h_t − h_(t + stride)| < ``threshold``, with h the ``attention_map`` of B. Threshold 0: never.
    - t < ``stage_step``: A has the empty context; B has the identity, A's self-attention, and a cross-attention whose
      statistics are halfway between its own and A's. ε = (1 + w) ε_B − w ε_A, with w = ``guidance``.

    ``injection`` False: B's attention is its own in both stages. ``on_step`` is called after each step.

    Contexts that do not have length 1 are normalised, with a warning. Where ``steps`` do not divide 1000 there are more
    of them, as in the released code, also with a warning. Raises UserError if the network does not take these latents
    or vectors, or a number is out of its range.
    """
    sampling = Sampling(steps, threshold, stage_step, guidance, injection)
    net.check_latents(noise)
    net.check_context(context)
    if len(context) != len(noise):
        raise UserError(f"{len(context)} contexts for {len(noise)} latents: give one context for each.")
    context, length_note = unit_length(context)
    for note in (sampling.note, length_note):
        if note:
            warnings.warn(f"note: {note}", stacklevel=3)
    return sample(net, noise, context, sampling, on_step)


@torch.no_grad()
def sample(
    net: UNet,
    noise: torch.Tensor,
    context: torch.Tensor,
    sampling: Sampling,
    on_step: Callable[[Step], None] | None = None,
) -> torch.Tensor:
    """``two_stage_ddim`` for contexts (N, 512) that are known to have length 1: no checks and no notes."""
    stride, stage_step, injection = stride_of(sampling.steps), sampling.stage_step, sampling.injection
    bars = alpha_bars().to(noise.device)  # (1000,)
    x, last_map = noise.float(), None
    flag = torch.zeros(len(noise), dtype=torch.bool, device=noise.device)  # (N,)
    training = net.training
    net.eval()
    try:
        for t in sampling.timesteps:
            times = torch.full_like(flag, t, dtype=torch.long)  # (N,)
            distance = None
            if t >= stage_step:
                identity = flag
                output = first_stage(net, x, times, context, flag, injection)
                predicted = output.noise
                current_map = attention_map(output.cross_attention, noise.shape[2:])  # (N, H, W)
                if last_map is not None:
                    distance = (current_map - last_map).abs().mean((1, 2))  # (N,)
                    flag = flag | (distance < sampling.threshold)
                last_map = current_map
            else:
                identity = torch.ones_like(flag)
                predicted = second_stage(net, x, times, context, sampling.guidance, injection)
            x = ddim_step(x, predicted, t, stride, bars)
            if on_step is not None:
                on_step(Step(t, identity, distance))
    finally:
        net.train(training)
    return x


def first_stage(
    net: UNet, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, flag: torch.Tensor, injection: bool
) -> Output:
    """Pass B of the first stage: x (N, C, H, W), t (N,), context (N, 512), flag (N,) -> Output."""
    with_identity = bool(flag.any())
    if not with_identity:
        return net(x, t)  # then B is A: injecting a pass's own attention changes nothing
    injected = net(x, t).self_attention if injection else None
    return net(x, t, context, flag, self_attention=injected)


def second_stage(
    net: UNet, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, guidance: float, injection: bool
) -> torch.Tensor:
    """The guided noise of the second stage: x (N, C, H, W), t (N,), context (N, 512) -> (N, C, H, W)."""
    empty = net(x, t)
    injected = (empty.self_attention, empty.cross_attention) if injection else (None, None)
    identity = net(x, t, context, None, *injected)
    return (1 + guidance) * identity.noise - guidance * empty.noise


def attention_map(cross_attention: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """h, where in a latent the context acts: logits (N, heads, Q, tokens) of each block -> (N, H, W) in [0, 1].

    In each block: softmax over the Q places, mean over tokens and heads, divided by its maximum, resized bilinearly to
    the latent. Then the mean over the blocks, scaled so that each sample's minimum is 0 and its maximum 1.
    """
    height, width = size
    maps = []
    for logits in cross_attention:
        shrinkage = math.isqrt(height * width // logits.shape[2])  # of the block's level
        places = logits.softmax(2, dtype=torch.float32).mean((1, 3))  # (N, heads, Q, tokens) -> (N, Q)
        places = places / places.amax(1, keepdim=True)
        small = places.unflatten(1, (1, height // shrinkage, width // shrinkage))  # (N, Q) -> (N, 1, h, w)
        maps.append(F.interpolate(small, size=(height, width), mode="bilinear")[:, 0].clamp(0, 1))  # (N, H, W)
    mean = torch.stack(maps).mean(0)  # (N, H, W)
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)  # (N, 1, 1) each
    return (mean - low) / (high - low)


def unit_length(context: torch.Tensor) -> tuple[torch.Tensor, str | None]:
    """(contexts (N, 512) with length 1, a line for the user if they were not).

    Raises UserError for a context without a direction.
    """
    context = context.float()
    lengths = context.norm(dim=1)  # (N,)
    bad = ~(lengths.isfinite() & (lengths > 0))  # (N,)
    if bad.any():
        raise UserError(f"context {int(bad.nonzero()[0])} is zero or not finite: an identity vector has a direction.")
    if not ((lengths - 1).abs() > UNIT_TOLERANCE).any():
        return context, None
    low, high = lengths.aminmax()
    note = f"contexts of lengths {low:.3g} to {high:.3g} are normalised to length 1, which UIFace takes."
    return context / lengths[:, None], note
