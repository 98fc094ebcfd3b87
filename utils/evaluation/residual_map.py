"""Where in the image a generator's reconstructions differ from the photos, averaged over many of them.

A face differs from its photo everywhere a little, most along edges. An artefact at a fixed place, such as a spot that
the generator draws on every nose, differs in the same direction every time: it is the mean residual, without what
varies slowly over the image, that has a peak there.
"""

import numpy as np
import torch
import torch.nn.functional as F

SMOOTH = 15  # pixels along an edge of the window whose mean is taken away
SCALE = 4  # size of a map's pixel in the picture
SHOWN_LEVELS = 64  # mean absolute residual, in levels of 255, that is drawn white; a peak is drawn 8 times as strong


class ResidualMap:
    """Sums of residuals of images against photos, place by place."""

    def __init__(self):
        self.count, self.absolute, self.signed = 0, 0.0, 0.0

    def add(self, images: torch.Tensor, photos: torch.Tensor) -> None:
        """Add the residuals of ``images`` against ``photos``, both (N, 3, H, W) in [-1, 1]."""
        residual = (images - photos).double() * 127.5  # levels of 255
        self.count += len(residual)
        self.absolute = self.absolute + residual.abs().mean(1).sum(0)  # (H, W)
        self.signed = self.signed + residual.mean(1).sum(0)  # (H, W)

    def mean_absolute(self) -> torch.Tensor:
        """The mean absolute residual (H, W) in levels of 255."""
        return self.absolute / self.count

    def fixed(self) -> torch.Tensor:
        """The mean residual without its local mean, (H, W), in levels of 255: what is wrong in all images."""
        mean = (self.signed / self.count)[None, None]  # (1, 1, H, W)
        edge = SMOOTH // 2
        smooth = F.avg_pool2d(F.pad(mean, 4 * (edge,), mode="replicate"), SMOOTH, stride=1)  # (1, 1, H, W)
        return (mean - smooth)[0, 0]

    def peak(self) -> float:
        """The largest absolute value of ``fixed()``."""
        return float(self.fixed().abs().max())

    def picture(self) -> np.ndarray:
        """Both maps side by side, (4 H, 8 W, 3) uint8: left the mean absolute residual, right the fixed one on grey."""
        left = self.mean_absolute() / SHOWN_LEVELS
        right = 0.5 + self.fixed() * 8 / SHOWN_LEVELS / 2
        both = torch.cat([left, right], 1).clip(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()  # (H, 2 W)
        return np.repeat(np.kron(both, np.ones((SCALE, SCALE), np.uint8))[..., None], 3, 2)
