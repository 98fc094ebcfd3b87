"""What the generator and the discriminator are trained on (paper section 3.2)."""

from itertools import islice
from pathlib import Path

import lpips
import torch
import torch.nn as nn
import torch.nn.functional as F
from pytorch_msssim import ssim
from torchvision.models import vgg16

from utils.checkpoint import check_fit, load_file, state_dict_of
from utils.errors import UserError

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
# Of the terms, as released. The detail term is ours.
WEIGHTS = {"pixel": 1.0, "ssim": 0.1, "token": 1.0, "identity": 1.0, "lpips": 0.1, "detail": 0.0, "adversarial": 1.0}
ENCODER_STAGES = 2  # of four, whose maps EncoderDistance compares
DETAIL_SCALES = 2
DETAIL_WINDOW = 8  # pixels of the scale
DETAIL_FLOOR = 0.01  # below which detail is noise
SMALLEST_NORM = 1e-4  # channel norm below which LPIPS divides by this instead
# What the generator asks of the discriminator's logits: ever more of them, as released, or what real images have. With
# the first, a single patch may pay for all the others.
ADVERSARIAL = {
    "linear": lambda logits: -logits.mean(),
    "lsgan": lambda logits: 0.5 * (logits - 1).square().mean(),
}


class PerceptualDistance(nn.Module):
    """How far apart the maps of two images are, place by place, with channels of unit length (Zhang et al., 2018).

    ``forward(a, b)``: images (N, 3, H, W) in [-1, 1] -> (N,). Gradients reach ``a`` only, and are finite also at places
    where no channel answers. ``maps(images)`` gives the maps; ``weighed(number, squares)`` sums a map's squared
    differences (N, C, H, W) over its channels: (N, 1, H, W).
    """

    def forward(self, a, b):
        with torch.no_grad():
            theirs = [unit_length(x) for x in self.maps(b)]
        distance = 0
        for number, (x, y) in enumerate(zip(self.maps(a), theirs, strict=True)):
            distance = distance + self.weighed(number, (unit_length(x) - y) ** 2).mean((1, 2, 3))  # (N,)
        return distance

    def weighed(self, number, squares):
        return squares.sum(1, keepdim=True)


def unit_length(x):
    """(N, C, H, W), the channels of every place divided by their norm."""
    x = x.float()  # squares of 16-bit features overflow
    return x / x.square().sum(1, keepdim=True).clamp(min=SMALLEST_NORM**2).sqrt()


class EncoderDistance(PerceptualDistance):
    """By the first maps of a face encoder, for where no VGG16 is at hand: edges and textures, no identity."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def maps(self, images):
        return list(islice(self.encoder.maps(images), ENCODER_STAGES))


class LPIPS(PerceptualDistance):
    """Perceptual distance (Zhang et al., 2018), VGG16 with the v0.1 heads of the ``lpips`` package."""

    def __init__(self, vgg_state):
        super().__init__()
        package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)  # heads from the package, no download
        self.scale, self.features, self.heads = package.scaling_layer, package.net, package.lins
        self.features.load_state_dict(self._sliced(vgg_state))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def _sliced(self, state):
        """torchvision's names (``0.weight``) -> the package's (``slice1.0.weight``)."""
        return {key: state[key.split(".", 1)[1]] for key in self.features.state_dict()}

    def maps(self, images):
        return self.features(self.scale(images))

    def weighed(self, number, squares):
        return self.heads[number](squares)


def load_perceptual(name, encoder):
    """The perceptual distance of --lpips_weights: a file for LPIPS, ``encoder``, or None for ``none``."""
    if name == "none":
        return None
    return EncoderDistance(encoder) if name == "encoder" else load_lpips(name)


def load_lpips(path):
    """LPIPS with the VGG16 in a torchvision file, whole or its ``features`` alone. Raises UserError."""
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such weight file. LPIPS needs torchvision's VGG16: fetch {VGG16_URL} to {path}, or train "
            "without: --lpips_weights encoder, or none."
        )
    state = state_dict_of(load_file(path), path)
    state = {key.removeprefix("features."): value for key, value in state.items() if not key.startswith("classifier.")}
    with torch.device("meta"):
        expected = vgg16().features
    check_fit(expected, state, path, "torchvision's VGG16")
    return LPIPS(state)


class GeneratorLoss(nn.Module):
    """The generator's loss, term by term.

    ``encoder``: the frozen face encoder whose features are the vectors. ``perceptual``: a PerceptualDistance
    or None. ``weights``: {term: weight} where they are not those of WEIGHTS. ``adversarial``: a name in ADVERSARIAL.
    """

    def __init__(self, encoder, perceptual=None, weights=None, adversarial="linear"):
        super().__init__()
        self.encoder, self.perceptual, self.adversarial = encoder, perceptual, ADVERSARIAL[adversarial]
        self.weights = WEIGHTS | (weights or {})

    def forward(self, output, real, vectors, discriminator=None):
        """{name: scalar}, ``total`` last, of a batch: Output, images (N, 3, 112, 112) in [-1, 1], vectors (N, 512).

        ``discriminator``: frozen, or None before the GAN phase. The images of ``output`` are not clipped.
        """
        fake = output.images.float()
        terms = {
            "pixel": F.mse_loss(fake, real),
            "ssim": 1 - similarity_of_structure(fake, real),
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


def similarity_of_structure(a, b, mean=True):
    """SSIM of images in [-1, 1] (Wang et al., 2004), or of each: always in float32, its variances are differences."""
    with torch.autocast(a.device.type, enabled=False):
        return ssim((a + 1) / 2, (b + 1) / 2, data_range=1, size_average=mean)


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
