"""UIFace's golden case, and UNets small enough for quick tests."""

from dataclasses import replace

import numpy as np
import torch
from filled import PARITY, filled

from models.uiface import Architecture, Autoencoder, AutoencoderSizes, UNet, save_uiface_vq
from models.uiface.weights import MODEL_KEY, about_unet

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


def small_autoencoder(seed=0):
    """A VQ autoencoder of random weights: images of 2 h pixels <-> latents (3, h, h) of about unit variance."""
    torch.manual_seed(seed)
    autoencoder = Autoencoder(AutoencoderSizes((32, 32), blocks=1, codes=64))
    faces = torch.rand(4, 3, 32, 32) * 2 - 1
    autoencoder.begin_codebook(faces)
    autoencoder.standardise(faces)
    return autoencoder.eval()


def write_small_models(folder, side=8, **about):
    """Write unet.pth, for vectors of 512 and latents of ``side``, and vq.pth; the flags that name both."""
    architecture = replace(SMALLEST, vector_size=512, latent_side=side)
    net = small_unet(architecture)
    torch.save({MODEL_KEY: net.state_dict()} | about_unet(architecture) | about, folder / "unet.pth")
    save_uiface_vq(small_autoencoder(), folder / "vq.pth")
    return ["--model_weights", folder / "unet.pth", "--autoencoder", folder / "vq.pth"]
