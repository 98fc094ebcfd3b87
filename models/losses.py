"""The losses of the generator and of the discriminator (paper section 3.2)."""

from collections.abc import Iterator, Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F
from pytorch_msssim import SSIM, ssim

from models.vec2face import Output

# Weights of the terms. All but the detail term, which the released code does not have, are the released ones.
WEIGHTS = {"pixel": 1.0, "ssim": 0.1, "token": 1.0, "identity": 1.0, "lpips": 0.1, "detail": 0.0, "adversarial": 1.0}
DETAIL_SCALES = 2
DETAIL_WINDOW = 8  # side in pixels of the respective scale
DETAIL_FLOOR = 0.01  # root mean square below which detail counts as noise
# The generator's adversarial term, given the discriminator's logits. "linear" is the released one: it rewards ever
# larger logits, so that a single patch can outweigh all others. "lsgan" asks for 1, the target of real patches.
ADVERSARIAL = {
    "linear": lambda logits: -logits.mean(),
    "lsgan": lambda logits: 0.5 * (logits - 1).square().mean(),
}


class GeneratorLoss(nn.Module):
    """The generator's training objective (paper section 3.2), term by term.

    ``encoder``: the frozen face encoder that computed the training vectors. ``perceptual``: a PerceptualDistance, or
    None to leave the LPIPS term out. ``weights``: {term: weight}, for terms whose weight differs from WEIGHTS.
    ``adversarial``: a key of ADVERSARIAL.
    """

    def __init__(
        self,
        encoder: nn.Module,
        perceptual: nn.Module | None = None,
        weights: Mapping[str, float] | None = None,
        adversarial: str = "linear",
    ):
        super().__init__()
        self.encoder, self.perceptual, self.adversarial = encoder, perceptual, ADVERSARIAL[adversarial]
        self.weights = WEIGHTS | dict(weights or {})
        self.ssim = StructuralSimilarity()

    def forward(
        self, output: Output, real: torch.Tensor, vectors: torch.Tensor, discriminator: nn.Module | None = None
    ) -> dict[str, torch.Tensor]:
        """{term: scalar} of a batch; the last entry, ``total``, is the weighted sum.

        ``output``: the generator's output, with images that are not clipped. ``real``: photos (N, 3, 112, 112) in
        [-1, 1]. ``vectors``: their FR features (N, 512). ``discriminator``: frozen, or None before the GAN phase.
        """
        fake = output.images.float()  # (N, 3, 112, 112)
        terms = {
            "pixel": F.mse_loss(fake, real),
            "ssim": 1 - self.ssim(fake, real),
            "token": F.mse_loss(output.predicted_map[:, 1:].float(), output.target_map[:, 1:].float()),  # rows 1..49
            "identity": (1 - F.cosine_similarity(self.encoder(fake), vectors)).mean(),
        }
        if self.perceptual is not None:
            terms["lpips"] = 2 * self.perceptual(fake, real).mean()
        if self.weights["detail"]:
            terms["detail"] = detail_difference(fake, real)
        if discriminator is not None:
            terms["adversarial"] = self.adversarial(discriminator(fake).float())
        return terms | {"total": sum(self.weights[name] * value for name, value in terms.items())}


class StructuralSimilarity(nn.Module):
    """SSIM (Wang et al., 2004) of images (N, 3, H, W) in [-1, 1]: the batch mean, or (N,) with ``mean=False``.

    It is always computed in float32, because its variances are differences of large numbers. The window is a buffer,
    so it moves with ``.to`` and is not uploaded at each call.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("window", SSIM(channel=3).win, persistent=False)  # (3, 1, 1, 11), Gaussian of sigma 1.5

    def forward(self, a: torch.Tensor, b: torch.Tensor, mean: bool = True) -> torch.Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return ssim((a + 1) / 2, (b + 1) / 2, data_range=1, size_average=mean, win=self.window)


def detail_difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference (scalar) of the local amount of detail in images (N, 3, H, W), at two scales.

    Where the position of an edge is uncertain, the squared error is smallest for a blur without any edge. This term
    asks for the photo's amount of detail within a window, wherever in the window it lies. Detail finer than 2 pixels
    is left out, as it is mostly noise.
    """
    return sum(F.l1_loss(x, y) for x, y in zip(details(a), details(b), strict=True)) / DETAIL_SCALES


def details(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the windowed root mean square of a band-pass of images (N, 3, H, W).

    First detail of 2 to 4 pixels, (N, 3, H / 8 - 1, W / 8 - 1), then of 4 to 8 pixels, in half as many windows.
    """
    images = F.avg_pool2d(images, 2)  # (N, 3, H / 2, W / 2)
    for _ in range(DETAIL_SCALES):
        small = F.avg_pool2d(images, 2)  # (N, 3, H / 4, W / 4)
        finer = images - F.interpolate(small, scale_factor=2, mode="bilinear")  # (N, 3, H / 2, W / 2)
        yield (F.avg_pool2d(finer.square(), DETAIL_WINDOW, stride=DETAIL_WINDOW // 2) + DETAIL_FLOOR**2).sqrt()
        images = small


def discriminator_loss(logits_real: torch.Tensor, logits_fake: torch.Tensor) -> torch.Tensor:
    """LSGAN loss (Mao et al., 2017) of patch logits: the target is 1 for real patches and 0 for generated ones."""
    return 0.5 * ((logits_real.float() - 1).square().mean() + logits_fake.float().square().mean())
