"""An auxiliary training task that keeps appearance information in the features of a face encoder."""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

THUMBNAIL_SIDE = 16
POSE_SCALE = 45  # degrees; poses are divided by this to bring them near the range of the thumbnail's pixels
POSE_DAMPING = 16  # without it the 2 pose outputs learn 200 times as fast as the thumbnail's 768, and SGD diverges


class AuxiliaryReadout(nn.Module):
    """Linear regression of the image's thumbnail and of its yaw and pitch from the FR feature.

    It is trained together with the margin head on clean, rendered faces. Without it, an encoder trained on such faces
    discards pose, lighting and expression so completely that a generator can only reconstruct the average image of
    each identity. Encoders trained on real photos keep this information without an auxiliary task.

    ``weights``: weights of the squared errors of the thumbnail and of the pose.
    """

    def __init__(self, width: int = 512, weights: Sequence[float] = (6.0, 3.0)):
        super().__init__()
        self.thumbnail = nn.Linear(width, 3 * THUMBNAIL_SIDE**2)
        self.pose = nn.Linear(width, 2)
        self.weights = weights

    def forward(self, features: torch.Tensor, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        """Features (N, D), images (N, 3, H, W) and poses (N, 2) -> the loss of each sample (N,).

        ``poses``: yaw and pitch in degrees; NaN where unknown, which leaves that angle out of the loss.
        """
        target = F.interpolate(images.float(), size=(THUMBNAIL_SIDE,) * 2, mode="area").flatten(1)  # (N, 3 * 16 * 16)
        thumbnail = (self.thumbnail(features) - target).square().mean(1)  # (N,)
        known = poses.isfinite()
        error = torch.where(known, self.pose(features / POSE_DAMPING) - poses.nan_to_num() / POSE_SCALE, 0.0)  # (N, 2)
        return self.weights[0] * thumbnail + self.weights[1] * error.square().mean(1)
