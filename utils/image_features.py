"""Features of images that precision, recall and the Frechet distance are taken in."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from utils.checkpoint import Undrawn, fit, frozen, load_file, state_dict_of

EXTRACTORS = ("fr", "vgg16", "inception")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
SIDES = {"vgg16": 224, "inception": 299}


class ImageNetFeatures(nn.Module):
    """(N, 3, H, W) in [-1, 1] -> (N, D): a torchvision classifier without its last layer, at its own resolution."""

    def __init__(self, network, side):
        super().__init__()
        self.network, self.side = network, side
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images):
        images = F.interpolate((images + 1) / 2, size=(self.side, self.side), mode="bilinear", antialias=True)
        return self.network((images - self.mean) / self.std)


def load_extractor(name, path, device):
    """``vgg16`` (4096-d fc2, Kynkaanniemi et al.) or ``inception`` (2048-d, FID) from torchvision's weight file.

    Raises UserError when the file is missing or another.
    """
    from torchvision.models import inception_v3, vgg16

    state = state_dict_of(load_file(path), path)
    if name == "vgg16":
        with Undrawn():
            network = vgg16(weights=None)
        fit(network, state, path, "torchvision's VGG16 with its classifier")
        network.classifier = network.classifier[:-1]
    else:
        with Undrawn():
            network = inception_v3(weights=None, init_weights=False, transform_input=False)
        fit(network, state, path, "torchvision's Inception v3")
        network.fc = nn.Identity()
    return frozen(ImageNetFeatures(network, SIDES[name]), device, torch.float32)
