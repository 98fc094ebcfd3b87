"""What the generator and the discriminator are trained on (paper section 3.2)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from pytorch_msssim import SSIM, ssim

# Of the terms, as released. The detail term is ours.
WEIGHTS = {"pixel": 1.0, "ssim": 0.1, "token": 1.0, "identity": 1.0, "lpips": 0.1, "detail": 0.0, "adversarial": 1.0}
DETAIL_SCALES = 2
DETAIL_WINDOW = 8  # pixels of the scale
DETAIL_FLOOR = 0.01  # below which detail is noise
# What the generator asks of the discriminator's logits: ever more of them, as released, or what real images have. With
# the first, a single patch may pay for all the others.
ADVERSARIAL = {
    "linear": lambda logits: -logits.mean(),
    "lsgan": lambda logits: 0.5 * (logits - 1).square().mean(),
}


class GeneratorLoss(nn.Module):
    """The generator's loss, term by term.

    ``encoder``: the frozen face encoder whose features are the vectors. ``perceptual``: a PerceptualDistance
    or None. ``weights``: {term: weight} where they are not those of WEIGHTS. ``adversarial``: a name in ADVERSARIAL.
    """

    def __init__(self, encoder, perceptual=None, weights=None, adversarial="linear"):
        super().__init__()
        self.encoder, self.perceptual, self.adversarial = encoder, perceptual, ADVERSARIAL[adversarial]
        self.weights = WEIGHTS | (weights or {})
        self.ssim = StructuralSimilarity()

    def forward(self, output, real, vectors, discriminator=None):
        """{name: scalar}, ``total`` last, of a batch: Output, images (N, 3, 112, 112) in [-1, 1], vectors (N, 512).

        ``discriminator``: frozen, or None before the GAN phase. The images of ``output`` are not clipped.
        """
        fake = output.images.float()
        terms = {
            "pixel": F.mse_loss(fake, real),
            "ssim": 1 - self.ssim(fake, real),
            "token": F.mse_loss(output.predicted_map[:, 1:].float(), output.target_map[:, 1:].float()),
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
    """SSIM (Wang et al., 2004) of images (N, 3, H, W) in [-1, 1], or (N,) of each, with ``mean=False``.

    Always in float32, as its variances are differences. The window moves with ``.to``, so no call uploads it.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("window", SSIM(channel=3).win, persistent=False)  # (3, 1, 1, 11), Gaussian of sigma 1.5

    def forward(self, a, b, mean=True):
        with torch.autocast(a.device.type, enabled=False):
            return ssim((a + 1) / 2, (b + 1) / 2, data_range=1, size_average=mean, win=self.window)


def detail_difference(a, b):
    """Mean difference in how much detail there is around every place of images (N, 3, H, W), at two scales.

    The squared error's best guess at an edge whose place is not known is a blur without any edge. This term asks for
    as much of it as the photo has within a window, wherever. What is finer than 2 pixels is left out: mostly noise.
    """
    return sum(F.l1_loss(x, y) for x, y in zip(details(a), details(b), strict=True)) / DETAIL_SCALES


def details(images):
    """Root mean square within windows of what is 2 to 4 pixels fine, (N, 3, H / 8 - 1, W / 8 - 1), then 4 to 8."""
    images = F.avg_pool2d(images, 2)  # (N, 3, H / 2, W / 2)
    for _ in range(DETAIL_SCALES):
        small = F.avg_pool2d(images, 2)  # (N, 3, H / 4, W / 4)
        finer = images - F.interpolate(small, scale_factor=2, mode="bilinear")  # (N, 3, H / 2, W / 2)
        yield (F.avg_pool2d(finer.square(), DETAIL_WINDOW, stride=DETAIL_WINDOW // 2) + DETAIL_FLOOR**2).sqrt()
        images = small


def discriminator_loss(logits_real, logits_fake):
    """LSGAN: real patches should be 1, generated ones 0."""
    return 0.5 * ((logits_real.float() - 1).square().mean() + logits_fake.float().square().mean())
