"""A read-out that keeps the face encoder from forgetting how a face looks."""

import torch
import torch.nn as nn
import torch.nn.functional as F

THUMBNAIL_SIDE = 16
POSE_SCALE = 45  # degrees that count as 1
POSE_DAMPING = 16  # else its 2 outputs would learn 200 times as fast as the thumbnail's 768, and SGD diverge


class Traces(nn.Module):
    """Linear read-out of the image's thumbnail and of yaw and pitch from an FR feature.

    Trained beside the margin head on clean, rendered faces: there an encoder learns to forget pose, light and
    expression so thoroughly that a generator could only draw each person's average. Features of encoders trained on
    real photos keep such traces by themselves. ``weights``: of the thumbnail's and of the pose's squared error.
    """

    def __init__(self, width=512, weights=(6.0, 3.0)):
        super().__init__()
        self.thumbnail = nn.Linear(width, 3 * THUMBNAIL_SIDE**2)
        self.pose = nn.Linear(width, 2)
        self.weights = weights

    def forward(self, features, images, poses):
        """Features (N, D), images (N, 3, H, W), yaw and pitch in degrees (N, 2), NaN: unknown -> losses (N,)."""
        wanted = F.interpolate(images.float(), size=(THUMBNAIL_SIDE,) * 2, mode="area").flatten(1)  # (N, 3 * 16 * 16)
        thumbnail = (self.thumbnail(features) - wanted).square().mean(1)  # (N,)
        known = poses.isfinite()
        error = torch.where(known, self.pose(features / POSE_DAMPING) - poses.nan_to_num() / POSE_SCALE, 0.0)  # (N, 2)
        return self.weights[0] * thumbnail + self.weights[1] * error.square().mean(1)
