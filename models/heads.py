"""Margin heads, the classification losses of face encoders: ArcFace, CosFace, AdaFace and MagFace.

``head(features (N, D), labels (N,))`` gives the loss of each image, (N,).
"""

import math
from collections.abc import Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F

SCALE = 64  # factor of the cosines before the softmax
COSINE_LIMIT = 1 - 1e-4  # largest cosine whose acos is taken, so that its gradient stays finite
INITIAL_STD = 0.01  # of the class directions; small ones turn quickly in the first steps
HEADS = ("arcface", "cosface", "adaface", "magface")
EARLIER_NAME = "loss.W"  # key of the transposed directions (D, classes) of ArcFace and CosFace in earlier checkpoints


def make_head(
    name: str,
    classes: int,
    width: int = 512,
    margin: float | None = None,
    easy_margin: bool = False,
    straight_through: bool = False,
) -> "CosineClassifier":
    """The head called ``name`` (one of HEADS) for features of length ``width``.

    ``margin``: the margin of ArcFace (in radians, 0.5 by default), CosFace (0.35) or AdaFace (0.4). ``easy_margin``: an
    option of MagFace. ``straight_through``: an option of ArcFace.
    """
    if name == "magface":
        return MagFace(classes, width, easy_margin=easy_margin)
    if name == "arcface":
        return ArcFace(classes, width, 0.5 if margin is None else margin, straight_through)
    head, usual_margin = {"cosface": (CosFace, 0.35), "adaface": (AdaFace, 0.4)}[name]
    return head(classes, width, usual_margin if margin is None else margin)


def native_head_state(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The state dict of a head; that of an ArcFace or CosFace head in an earlier checkpoint is converted."""
    if EARLIER_NAME not in state:
        return state
    return {"directions": state[EARLIER_NAME].T.contiguous()}  # (D, classes) -> (classes, D)


class CosineClassifier(nn.Module):
    """Cross entropy over the scaled cosines to one direction per class.

    ``with_margin`` lowers the cosine to the image's own class. Few (N, classes) tensors are made, because at 300,000
    classes each of them takes more memory than a batch of images.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(classes, width) * INITIAL_STD)

    @torch.no_grad()
    def init_from_centroids(self, centroids: torch.Tensor) -> None:
        """Set the directions to the class centroids (classes, D)."""
        self.directions.copy_(centroids)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.directions)

    @property
    def share(self) -> range:
        """The classes whose directions this process holds: all of them."""
        return range(self.classes)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = SCALE * F.normalize(features) @ F.normalize(self.directions).T  # (N, classes)
        own = torch.arange(len(labels), device=labels.device), labels  # gather() would keep a copy of all logits
        lowered = SCALE * self.with_margin(logits[own] / SCALE, features)  # (N,)
        losses = F.cross_entropy(logits.index_put_(own, lowered), labels, reduction="none")  # (N,)
        return losses + self.regulariser(features)

    def of_mixtures(self, features: torch.Tensor, labels: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """The losses (N,) of mixtures of P classes each, as SynFace's code has them: the logits are mixed.

        ``labels`` and ``shares`` (N, P), with sums of 1. M_k are the logits with the margin at class k. The mixed
        logits o = sum of share_k M_k differ from the plain ones at the P classes only, and the loss is the sum of
        share_k times the cross entropy of o with class k.
        """
        logits = SCALE * F.normalize(features) @ F.normalize(self.directions).T  # (N, classes)
        rows = torch.arange(len(labels), device=labels.device)  # (N,)
        lowered = [SCALE * self.with_margin(logits[rows, own] / SCALE, features) for own in labels.T]  # (N,) each
        rows = rows[:, None].expand_as(labels)  # (N, P)
        change = shares * (torch.stack(lowered, 1) - logits[rows, labels])  # (N, P)
        logits = logits.index_put((rows, labels), change, accumulate=True)
        losses = logits.logsumexp(1) - (shares * logits[rows, labels]).sum(1)  # (N,)
        return losses + self.regulariser(features)

    def with_margin(self, cosines: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The cosines (N,) of features (N, D) to their own classes, lowered by the margin."""
        raise NotImplementedError

    def regulariser(self, features: torch.Tensor) -> torch.Tensor | float:
        """A term (N,) of the loss that depends on the features (N, D) alone, or 0."""
        return 0.0


class CosFace(CosineClassifier):
    """Margin on the cosine (Wang et al., 2018, equation 4)."""

    def __init__(self, classes: int, width: int, margin: float):
        super().__init__(classes, width)
        self.margin = margin

    def with_margin(self, cosines: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return cosines - self.margin


class ArcFace(CosineClassifier):
    """Margin on the angle, in radians (Deng et al., 2019, equation 3).

    ``straight_through``: as in InsightFace's training code, the margin changes the loss but not its gradient. The
    gradient of cos(angle + margin) is replaced by that of cos(angle), so it lacks the factor
    sin(angle + margin) / sin(angle).
    """

    def __init__(self, classes: int, width: int, margin: float, straight_through: bool = False):
        super().__init__(classes, width)
        self.margin, self.straight_through = margin, straight_through

    def with_margin(self, cosines: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        lowered = add_angle(angle_of(cosines), self.margin)  # (N,)
        return cosines + (lowered - cosines).detach() if self.straight_through else lowered


class AdaFace(CosineClassifier):
    """Margin that depends on the feature norm as a proxy for image quality (Kim et al., 2022, equations 11-14).

    The norm is standardised by its running mean and deviation. ``concentration``: the paper's h. ``momentum``: weight
    of a batch in the running statistics.
    """

    def __init__(self, classes: int, width: int, margin: float, concentration: float = 0.333, momentum: float = 0.01):
        super().__init__(classes, width)
        self.margin, self.concentration, self.momentum = margin, concentration, momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("deviation", torch.tensor(100.0))

    def with_margin(self, cosines: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        norms = features.detach().norm(dim=1).clamp(0.001, 100)  # (N,)
        if self.training and len(norms) > 1:
            self.mean.lerp_(norms.mean(), self.momentum)
            self.deviation.lerp_(norms.std(), self.momentum)
        quality = ((norms - self.mean) / (self.deviation + 1e-3) * self.concentration).clamp(-1, 1)  # (N,)
        angle = angle_of(cosines) - self.margin * quality  # (N,)
        return angle.clamp(1e-3, math.pi - 1e-3).cos() - self.margin * (1 + quality)


class MagFace(CosineClassifier):
    """Margin that grows with the feature norm, which thereby becomes a quality measure (Meng et al., 2021, eq. 3-5).

    Norms are clamped to ``bounds``, over which the angular margin (radians) rises linearly from the first to the second
    of ``margins``. ``weight``: weight of the regulariser of the norms. ``easy_margin``: as in the authors' code, no
    margin for a feature at more than a right angle from its class.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        bounds: tuple[float, float] = (10, 110),
        margins: tuple[float, float] = (0.45, 0.8),
        weight: float = 20,
        easy_margin: bool = False,
    ):
        super().__init__(classes, width)
        self.bounds, self.margins, self.weight, self.easy_margin = bounds, margins, weight, easy_margin

    def regulariser(self, features: torch.Tensor) -> torch.Tensor:
        """A term (N,) that decreases with the norm."""
        norms = self.norms_of(features)  # (N,)
        return self.weight * (norms / self.bounds[1] ** 2 + 1 / norms)

    def norms_of(self, features: torch.Tensor) -> torch.Tensor:
        """Norms (N,) of features (N, D), clamped to the bounds."""
        return features.norm(dim=1).clamp(*self.bounds)

    def with_margin(self, cosines: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        (low, high), (smallest, largest) = self.bounds, self.margins
        margin = smallest + (largest - smallest) * (self.norms_of(features) - low) / (high - low)  # (N,)
        angle = angle_of(cosines)  # (N,)
        if self.easy_margin:
            return torch.where(angle < math.pi / 2, (angle + margin).cos(), angle.cos())
        return add_angle(angle, margin)


def angle_of(cosines: torch.Tensor) -> torch.Tensor:
    """Angles in radians, with finite gradients."""
    return cosines.clamp(-COSINE_LIMIT, COSINE_LIMIT).acos()


def add_angle(angle: torch.Tensor, margin: torch.Tensor | float) -> torch.Tensor:
    """cos(angle + margin); beyond pi, where that would rise again, cos(angle) - margin * sin(margin)."""
    margin = torch.as_tensor(margin)
    return torch.where(angle + margin < math.pi, (angle + margin).cos(), angle.cos() - margin * margin.sin())
