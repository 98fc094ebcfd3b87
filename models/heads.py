"""Margin heads: what a face encoder is trained with (ArcFace, CosFace, AdaFace, MagFace).

``head(features (N, D), labels (N,)) -> (N,)`` loss of each image. ArcFace and CosFace are those of
pytorch-metric-learning.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from pytorch_metric_learning.reducers import DoNothingReducer
from pytorch_metric_learning.utils.common_functions import TorchInitWrapper

SCALE = 64
COSINE_LIMIT = 1 - 1e-4  # acos has a finite slope within
INITIAL_STD = 0.01  # of the class directions: small ones turn fast in the first steps
HEADS = ("arcface", "cosface", "adaface", "magface")


def make_head(name, classes, width=512, margin=None, easy_margin=False, straight_through=False):
    """A head by its name in HEADS. ``margin``: of ArcFace (radians, 0.5), CosFace (0.35) and AdaFace (0.4).

    ``easy_margin``: of MagFace. ``straight_through``: of ArcFace.
    """
    if name == "magface":
        return MagFace(classes, width, easy_margin=easy_margin)
    if name == "adaface":
        return AdaFace(classes, width, 0.4 if margin is None else margin)
    if name == "cosface":
        loss, margin = CosFaceLoss, 0.35 if margin is None else margin
    else:
        loss = StraightThroughArcFace if straight_through else ArcFaceLoss
        margin = math.degrees(0.5 if margin is None else margin)
    initialise = TorchInitWrapper(nn.init.normal_, std=INITIAL_STD)
    options = {"scale": SCALE, "weight_init_func": initialise, "reducer": DoNothingReducer()}
    return EachImage(loss(classes, width, margin=margin, **options))


class StraightThroughArcFace(ArcFaceLoss):
    """ArcFace whose margin changes the loss but is left out of the gradient, as InsightFace's training code has it.

    The gradient of cos(angle + margin) is replaced by that of cos(angle), so it lacks the factor
    sin(angle + margin) / sin(angle).
    """

    def modify_cosine_of_target_classes(self, cosine):
        return cosine + (super().modify_cosine_of_target_classes(cosine) - cosine).detach()


class EachImage(nn.Module):
    """A loss of pytorch-metric-learning, image by image."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, features, labels):
        return self.loss(features, labels)["loss"]["losses"]

    @torch.no_grad()
    def begin_at(self, centres):
        """Let each class's direction be its centre (classes, D)."""
        self.loss.W.copy_(centres.T)


class CosineClassifier(nn.Module):
    """One direction a class. ``cosines(features)`` -> (N, classes)."""

    def __init__(self, classes, width):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(classes, width) * INITIAL_STD)

    @torch.no_grad()
    def begin_at(self, centres):
        """Let each class's direction be its centre (classes, D)."""
        self.directions.copy_(centres)

    def cosines(self, features):
        cosines = F.normalize(features) @ F.normalize(self.directions).T  # (N, classes)
        return cosines.clamp(-COSINE_LIMIT, COSINE_LIMIT)

    @staticmethod
    def cross_entropy(cosines, labels, own):
        """The loss (N,) with the cosine to the own class replaced by ``own`` (N,)."""
        return F.cross_entropy(SCALE * cosines.scatter(1, labels[:, None], own[:, None]), labels, reduction="none")


class AdaFace(CosineClassifier):
    """Margin by feature norm, which stands for image quality (Kim et al., 2022, equations 11-14).

    The norm is measured against its running mean and deviation; ``concentration`` is the paper's h.
    """

    def __init__(self, classes, width, margin=0.4, concentration=0.333, momentum=0.01):
        super().__init__(classes, width)
        self.margin, self.concentration, self.momentum = margin, concentration, momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("deviation", torch.tensor(100.0))

    def forward(self, features, labels):
        cosines = self.cosines(features)  # (N, classes)
        norms = features.detach().norm(dim=1).clamp(0.001, 100)  # (N,)
        if self.training and len(norms) > 1:
            self.mean.lerp_(norms.mean(), self.momentum)
            self.deviation.lerp_(norms.std(), self.momentum)
        quality = ((norms - self.mean) / (self.deviation + 1e-3) * self.concentration).clamp(-1, 1)  # (N,)
        angle = cosines.gather(1, labels[:, None])[:, 0].acos() - self.margin * quality  # (N,)
        own = angle.clamp(1e-3, math.pi - 1e-3).cos() - self.margin * (1 + quality)  # (N,)
        return self.cross_entropy(cosines, labels, own)


class MagFace(CosineClassifier):
    """Margin that grows with the feature's norm, which training makes the image's quality (Meng et al., 2021, eq. 3-5).

    Norms are kept within ``bounds``; over them the angular margin (radians) goes linearly through ``margins``.
    ``easy_margin``: no margin for a feature more than a right angle from its class, as in the authors' code.
    """

    def __init__(self, classes, width, bounds=(10, 110), margins=(0.45, 0.8), weight=20, easy_margin=False):
        super().__init__(classes, width)
        self.bounds, self.margins, self.weight, self.easy_margin = bounds, margins, weight, easy_margin

    def forward(self, features, labels):
        (low, high), (smallest, largest) = self.bounds, self.margins
        norms = features.norm(dim=1).clamp(low, high)  # (N,)
        margin = smallest + (largest - smallest) * (norms - low) / (high - low)  # (N,)
        cosines = self.cosines(features)  # (N, classes)
        angle = cosines.gather(1, labels[:, None])[:, 0].acos()  # (N,)
        if self.easy_margin:
            own = torch.where(angle < math.pi / 2, (angle + margin).cos(), angle.cos())  # (N,)
        else:  # beyond pi the cosine would rise again; there the loss goes on with a straight line
            own = torch.where(angle + margin < math.pi, (angle + margin).cos(), angle.cos() - margin * margin.sin())
        regulariser = norms / high**2 + 1 / norms  # (N,), falls with the norm
        return self.cross_entropy(cosines, labels, own) + self.weight * regulariser
