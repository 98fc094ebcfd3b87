"""Margin heads: what a face encoder is trained with (ArcFace, CosFace, AdaFace, MagFace).

``head(features (N, D), labels (N,)) -> (N,)`` loss of each image.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

SCALE = 64
COSINE_LIMIT = 1 - 1e-4  # acos has a finite slope within
INITIAL_STD = 0.01  # of the class directions: small ones turn fast in the first steps
HEADS = ("arcface", "cosface", "adaface", "magface")
EARLIER_NAME = "loss.W"  # of the directions of ArcFace and CosFace in earlier checkpoints, (D, classes)


def make_head(name, classes, width=512, margin=None, easy_margin=False, straight_through=False):
    """A head by its name in HEADS. ``margin``: of ArcFace (radians, 0.5), CosFace (0.35) and AdaFace (0.4).

    ``easy_margin``: of MagFace. ``straight_through``: of ArcFace.
    """
    if name == "magface":
        return MagFace(classes, width, easy_margin=easy_margin)
    if name == "arcface":
        return ArcFace(classes, width, 0.5 if margin is None else margin, straight_through)
    head, usual_margin = {"cosface": (CosFace, 0.35), "adaface": (AdaFace, 0.4)}[name]
    return head(classes, width, usual_margin if margin is None else margin)


def native_head_state(state):
    """The state dict of a head, with the directions of ArcFace and CosFace in earlier checkpoints as they are now."""
    if EARLIER_NAME not in state:
        return state
    return {"directions": state[EARLIER_NAME].T.contiguous()}  # (D, classes) -> (classes, D)


class CosineClassifier(nn.Module):
    """Cross entropy over scaled cosines to one direction a class, of which ``with_margin`` lowers that to the own one.

    Few (N, classes) tensors are made, for at 300,000 classes each of them takes more memory than a batch of images.
    """

    def __init__(self, classes, width):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(classes, width) * INITIAL_STD)

    @torch.no_grad()
    def begin_at(self, centres):
        """Let each class's direction be its centre (classes, D)."""
        self.directions.copy_(centres)

    def forward(self, features, labels):
        logits = SCALE * F.normalize(features) @ F.normalize(self.directions).T  # (N, classes)
        own = torch.arange(len(labels), device=labels.device), labels  # gather() would keep all logits as they are here
        lowered = SCALE * self.with_margin(logits[own] / SCALE, features)  # (N,)
        return F.cross_entropy(logits.index_put_(own, lowered), labels, reduction="none")  # (N,)

    def with_margin(self, cosines, features):
        """What stands in the place of the cosines (N,) of features (N, D) to their own classes."""
        raise NotImplementedError


class CosFace(CosineClassifier):
    """Margin on the cosine (Wang et al., 2018, equation 4)."""

    def __init__(self, classes, width, margin):
        super().__init__(classes, width)
        self.margin = margin

    def with_margin(self, cosines, features):
        return cosines - self.margin


class ArcFace(CosineClassifier):
    """Margin on the angle, in radians (Deng et al., 2019, equation 3).

    ``straight_through``: the margin changes the loss but is left out of the gradient, as in InsightFace's training
    code. The gradient of cos(angle + margin) is replaced by that of cos(angle), so it lacks the factor
    sin(angle + margin) / sin(angle).
    """

    def __init__(self, classes, width, margin, straight_through=False):
        super().__init__(classes, width)
        self.margin, self.straight_through = margin, straight_through

    def with_margin(self, cosines, features):
        lowered = add_angle(angle_of(cosines), self.margin)  # (N,)
        return cosines + (lowered - cosines).detach() if self.straight_through else lowered


class AdaFace(CosineClassifier):
    """Margin by feature norm, which stands for image quality (Kim et al., 2022, equations 11-14).

    The norm is measured against its running mean and deviation; ``concentration`` is the paper's h.
    """

    def __init__(self, classes, width, margin, concentration=0.333, momentum=0.01):
        super().__init__(classes, width)
        self.margin, self.concentration, self.momentum = margin, concentration, momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("deviation", torch.tensor(100.0))

    def with_margin(self, cosines, features):
        norms = features.detach().norm(dim=1).clamp(0.001, 100)  # (N,)
        if self.training and len(norms) > 1:
            self.mean.lerp_(norms.mean(), self.momentum)
            self.deviation.lerp_(norms.std(), self.momentum)
        quality = ((norms - self.mean) / (self.deviation + 1e-3) * self.concentration).clamp(-1, 1)  # (N,)
        angle = angle_of(cosines) - self.margin * quality  # (N,)
        return angle.clamp(1e-3, math.pi - 1e-3).cos() - self.margin * (1 + quality)


class MagFace(CosineClassifier):
    """Margin that grows with the feature's norm, which training makes the image's quality (Meng et al., 2021, eq. 3-5).

    Norms are kept within ``bounds``; over them the angular margin (radians) goes linearly through ``margins``.
    ``easy_margin``: no margin for a feature more than a right angle from its class, as in the authors' code.
    """

    def __init__(self, classes, width, bounds=(10, 110), margins=(0.45, 0.8), weight=20, easy_margin=False):
        super().__init__(classes, width)
        self.bounds, self.margins, self.weight, self.easy_margin = bounds, margins, weight, easy_margin

    def forward(self, features, labels):
        norms = self.norms_of(features)  # (N,)
        regulariser = norms / self.bounds[1] ** 2 + 1 / norms  # (N,), falls with the norm
        return super().forward(features, labels) + self.weight * regulariser

    def norms_of(self, features):
        return features.norm(dim=1).clamp(*self.bounds)

    def with_margin(self, cosines, features):
        (low, high), (smallest, largest) = self.bounds, self.margins
        margin = smallest + (largest - smallest) * (self.norms_of(features) - low) / (high - low)  # (N,)
        angle = angle_of(cosines)  # (N,)
        if self.easy_margin:
            return torch.where(angle < math.pi / 2, (angle + margin).cos(), angle.cos())
        return add_angle(angle, margin)


def angle_of(cosines):
    return cosines.clamp(-COSINE_LIMIT, COSINE_LIMIT).acos()


def add_angle(angle, margin):
    """cos(angle + margin). Where that would rise again, beyond pi, the loss goes on with a straight line."""
    margin = torch.as_tensor(margin)
    return torch.where(angle + margin < math.pi, (angle + margin).cos(), angle.cos() - margin * margin.sin())
