"""A face recogniser in training: the backbone that is kept, and what is only needed to train it."""

from collections.abc import Sequence

import torch
import torch.nn as nn

from models.auxiliary_readout import AuxiliaryReadout
from models.heads import CosineClassifier, make_head
from models.iresnet import DEPTHS, IResNet


class Recogniser(nn.Module):
    """Backbone, margin head and perhaps an AuxiliaryReadout, so that one forward pass of DDP includes all of them."""

    def __init__(self, backbone: IResNet, head: CosineClassifier, readout: AuxiliaryReadout | None = None):
        super().__init__()
        self.backbone, self.head, self.readout = backbone, head, readout

    def forward(
        self,
        images: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
        poses: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, 112, 112) in [-1, 1] and labels (B,) -> losses (B,) and feature norms (B,).

        In a batch with mixtures, ``second`` (B,) are the labels of the second parts and ``weight`` (B,) the weights of
        the first ones. ``poses``: yaw and pitch (B, 2) in degrees, for the readout.
        """
        features = self.backbone(images)  # (B, 512) float32
        with torch.autocast(features.device.type, enabled=False):
            losses = self.head(features, first)  # (B,)
            if second is not None:
                losses = weight * losses + (1 - weight) * self.head(features, second)
            if self.readout is not None:
                losses = losses + self.readout(features, images, poses)
        return losses, features.detach().norm(dim=1)


def make_recogniser(
    classes: int,
    depth: int = 50,
    width: int = 64,
    se: bool = True,
    head: str = "arcface",
    margin: float | None = None,
    easy_margin: bool = False,
    straight_through: bool = False,
    readout_weights: Sequence[float] | None = None,
) -> Recogniser:
    """A new recogniser of ``classes`` identities.

    ``depth``, ``width`` (channels of the first stage) and ``se`` (squeeze-excitation) describe the IResNet. For the
    head see ``make_head``. ``readout_weights``: weights of an AuxiliaryReadout, None for none.
    """
    widths = tuple(width * multiplier for multiplier in (1, 2, 4, 8))
    backbone = IResNet(DEPTHS[depth], widths, se=se).initialise()
    readout = AuxiliaryReadout(weights=readout_weights) if readout_weights else None
    head = make_head(head, classes, margin=margin, easy_margin=easy_margin, straight_through=straight_through)
    return Recogniser(backbone, head, readout)
