"""A face recogniser in training: the backbone that is kept, and what is only needed to train it."""

from collections.abc import Sequence

import torch
import torch.nn as nn

from models.auxiliary_readout import AuxiliaryReadout
from models.heads import CosineClassifier, make_head
from models.iresnet import DEPTHS, IResNet

MIXUP_LOSSES = ("losses", "logits")


class Recogniser(nn.Module):
    """Backbone, margin head and perhaps an AuxiliaryReadout, so that one forward pass of DDP includes all of them.

    ``mixup_loss``, one of MIXUP_LOSSES: whether the loss of a mixture is mixed of the losses of its classes, or its
    logits are mixed (``CosineClassifier.of_mixtures``).
    """

    def __init__(
        self,
        backbone: IResNet,
        head: CosineClassifier,
        readout: AuxiliaryReadout | None = None,
        mixup_loss: str = "losses",
    ):
        super().__init__()
        self.backbone, self.head, self.readout, self.mixup_loss = backbone, head, readout, mixup_loss

    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        shares: torch.Tensor | None = None,
        poses: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, 112, 112) in [-1, 1] and labels (B,) -> losses (B,) and feature norms (B,).

        In a batch with mixtures of P classes each, ``labels`` and their ``shares``, whose sums are 1, are (B, P).
        ``poses``: yaw and pitch (B, 2) in degrees, for the readout.
        """
        features = self.backbone(images)  # (B, 512) float32
        with torch.autocast(features.device.type, enabled=False):
            if shares is None:
                losses = self.head(features, labels)  # (B,)
            elif self.mixup_loss == "logits":
                losses = self.head.of_mixtures(features, labels, shares)  # (B,)
            else:
                losses = sum(
                    share * self.head(features, label) for label, share in zip(labels.T, shares.T, strict=True)
                )
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
    mixup_loss: str = "losses",
) -> Recogniser:
    """A new recogniser of ``classes`` identities.

    ``depth``, ``width`` (channels of the first stage) and ``se`` (squeeze-excitation) describe the IResNet. For the
    head see ``make_head``. ``readout_weights``: weights of an AuxiliaryReadout, None for none. ``mixup_loss``: see
    ``Recogniser``.
    """
    widths = tuple(width * multiplier for multiplier in (1, 2, 4, 8))
    backbone = IResNet(DEPTHS[depth], widths, se=se).initialise()
    readout = AuxiliaryReadout(weights=readout_weights) if readout_weights else None
    head = make_head(head, classes, margin=margin, easy_margin=easy_margin, straight_through=straight_through)
    return Recogniser(backbone, head, readout, mixup_loss)
