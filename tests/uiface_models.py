"""UIFace's golden case, and UNets small enough for quick tests."""

import numpy as np
import torch
from filled import PARITY, filled

from models.uiface import Architecture, UNet

SMALLEST = Architecture(32, (1, 2), (False, True), blocks=1, context_width=32, vector_size=8)


def golden(name):
    return {key: torch.from_numpy(value) for key, value in np.load(PARITY / f"golden_uiface_{name}.npz").items()}


def error(ours, theirs):
    """Relative L2 error."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def small_unet(architecture=SMALLEST):
    """A UNet with filled weights: a new one has zeros where its blocks end, and predicts no noise at all."""
    net = UNet(architecture)
    net.load_state_dict(filled({key: (list(w.shape), "float32") for key, w in net.state_dict().items()}))
    return net.eval()


def batch(count, side=8, vector_size=8, seed=0):
    """Noise (count, 3, side, side) and contexts (count, vector_size) of length 1."""
    random = torch.Generator().manual_seed(seed)
    contexts = torch.nn.functional.normalize(torch.randn(count, vector_size, generator=random))
    return torch.randn(count, 3, side, side, generator=random), contexts
