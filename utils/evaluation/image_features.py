"""Networks whose image features precision, recall and the Fréchet distance are computed from."""

import io
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from models.errors import UserError
from models.weight_files import freeze_for_inference, load_file, load_weights_strict, sha256, skip_init, state_dict_of

EXTRACTORS = ("fr", "vgg16", "inception", "fid")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
SIDES = {"vgg16": 224, "inception": 299}
# The published weights of the FID network (pt_inception- or weights-inception-2015-12-05-6726825d.pth).
FID_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class Extractor(NamedTuple):
    network: nn.Module  # (N, 3, H, W) in [-1, 1] -> (N, D)
    name: str  # of the network, for reports
    is_fid: bool  # whether the Fréchet distance of its features is the FID


class ImageNetFeatures(nn.Module):
    """(N, 3, H, W) in [-1, 1] -> (N, D): a torchvision classifier without its last layer, at its own resolution."""

    def __init__(self, network: nn.Module, side: int):
        super().__init__()
        self.network, self.side = network, side
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = F.interpolate((images + 1) / 2, size=(self.side, self.side), mode="bilinear", antialias=True)
        return self.network((images - self.mean) / self.std)


class FIDFeatures(nn.Module):
    """(N, 3, H, W) in [-1, 1] -> (N, 2048): torch-fidelity's FID network on 8-bit pixels, which it resizes."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = ((images + 1) * 127.5).round().to(torch.uint8)
        return self.network(pixels)[0]


def load_extractor(name: str, path: str | None, device: torch.device) -> Extractor:
    """The Extractor ``vgg16`` (4096-d fc2, Kynkaanniemi et al.), ``inception`` or ``fid`` (2048-d) from a weight file.

    ``vgg16`` and ``inception`` are torchvision's classifiers; ``fid`` is the network that FID is defined by. Raises
    UserError when the file is missing or holds other weights, or torch-fidelity is not installed.
    """
    from torchvision.models import inception_v3, vgg16

    if name == "fid":
        return _load_fid_network(path, device)
    if not path:
        raise UserError(f"--extractor {name} needs --extractor_weights, torchvision's file of its weights.")
    state = state_dict_of(load_file(path), path)
    with skip_init():
        if name == "vgg16":
            title, network = "torchvision's VGG16", vgg16(weights=None)
        else:
            title = "torchvision's Inception v3"
            network = inception_v3(weights=None, init_weights=False, transform_input=False)
    load_weights_strict(network, state, path, title)
    if name == "vgg16":
        network.classifier = network.classifier[:-1]
    else:
        network.fc = nn.Identity()
    return Extractor(freeze_for_inference(ImageNetFeatures(network, SIDES[name]), device, torch.float32), title, False)


def _load_fid_network(path: str | None, device: torch.device) -> Extractor:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError as error:
        raise UserError("--extractor fid needs torch-fidelity: pip install torch-fidelity") from error
    if not path or not Path(path).is_file():
        problem = f"--extractor_weights {path}: no such file" if path else "--extractor fid needs --extractor_weights"
        raise UserError(f"{problem}. Fetch {URL_INCEPTION_V3} and name the file with --extractor_weights.")
    state = state_dict_of(load_file(path), path)
    buffer = io.BytesIO()  # the package unpickles whatever it is given, so it gets only the tensors of the file
    torch.save(state, buffer)
    buffer.seek(0)
    try:
        with skip_init():
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], buffer)
    except RuntimeError as error:
        raise UserError(f"{path}: these are not the FID network's weights, which are at {URL_INCEPTION_V3}") from error
    published = sha256(path) == FID_SHA256
    title = "the FID network" if published else f"the FID network with other weights than published ({path})"
    return Extractor(freeze_for_inference(FIDFeatures(network), device, torch.float32), title, published)
