"""Decoding a batch of vectors, of which some rows may be padding."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn

from models.masking import ROWS, MaskRates, TokenMask
from models.pixels import to_images
from models.pose_control import AtLandmarks
from models.transfer import upload
from models.uiface import UIFaceGenerator
from utils.generation.landmark_choice import drawn


class Decoded(NamedTuple):
    """``images`` (B, 3, 112, 112), and what the generator says of each for the manifest: {name: (B,)}."""

    images: torch.Tensor
    values: dict[str, torch.Tensor]


@torch.inference_mode()
def decode_rows(
    generator: nn.Module, vectors: np.ndarray, mask_rates: MaskRates | None, streams: list[np.random.Generator],
    pictures: Sequence[np.ndarray] = (),
) -> Decoded:  # fmt: skip
    """The images of ``vectors`` (B, 512); rows beyond those with a stream are padding.

    ``streams``: those that the masks of the first rows are drawn from, or the noise for UIFace, which has no masks;
    ``pictures``: the landmark pictures of the same rows, (112, 112, 3) uint8 RGB each, none without landmark control.
    """
    device = next(generator.parameters()).device
    if isinstance(generator, UIFaceGenerator):
        drawn = generator(upload(torch.from_numpy(vectors), device), generator.draw_noise(streams, len(vectors)))
        return Decoded(drawn.images, {"t0": drawn.t0})
    noise, rates = np.zeros((len(vectors), ROWS)), np.ones(len(vectors))
    for slot, stream in enumerate(streams):
        noise[slot], rates[slot] = mask_rates.draw(stream)
    mask = TokenMask.from_noise(torch.from_numpy(noise), mask_rates.minimum, torch.from_numpy(rates)).to(device)
    control = {"landmarks": padded_pictures(pictures, len(vectors), device)} if len(pictures) else {}
    return Decoded(generator(upload(torch.from_numpy(vectors), device), mask, **control).images, {})


@torch.inference_mode()
def example_image(generator: nn.Module) -> torch.Tensor:
    """An image (1, 3, 112, 112), which costs as much as any other."""
    device = next(generator.parameters()).device
    if isinstance(generator, UIFaceGenerator):
        vectors = torch.ones(1, generator.architecture.vector_size, device=device)
        return generator(vectors, torch.ones(1, *generator.noise_shape, device=device)).images
    mask = TokenMask.from_noise(torch.linspace(0, 0.9, ROWS)[None], 0.0, 0.0).to(device)
    return generator(torch.ones(1, 512, device=device), mask).images


def padded_pictures(pictures: Sequence[np.ndarray], count: int, device: torch.device) -> torch.Tensor:
    """Landmark pictures (112, 112, 3) uint8 -> (count, 3, 112, 112) in [-1, 1], black in rows of padding."""
    padded = np.zeros((count, *pictures[0].shape), np.uint8)  # (B, 112, 112, 3)
    padded[: len(pictures)] = pictures
    return to_images(upload(torch.from_numpy(padded), device))


def frontal_only(generator: nn.Module) -> AtLandmarks:
    """A generator under landmark control that needs no landmarks: all images have those of an average frontal head."""
    picture = to_images(torch.from_numpy(drawn(0, 0, 0).picture[None]))[0]  # (3, 112, 112)
    return AtLandmarks(generator, picture.to(next(generator.parameters()).device))
