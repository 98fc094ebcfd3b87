"""What a second face encoder compares images with: its feature of the image of the vector without noise, the anchor.

Identity vectors mean nothing to an encoder other than the generator's. So the second encoder sees one more image of
each identity, which is decoded from the identity's vector (in identity mode AttrOP's) with a mask of its own random
stream, and is not written.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
import torch.nn as nn

from models.masking import ROWS, MaskRates, TokenMask
from models.pixels import to_images, to_pixels
from models.transfer import upload
from utils.dataset.image_record import AttrOPVerdict
from utils.generation.recipe import Identity, Recipe
from utils.generation.streams import anchor_stream

Start = tuple[Identity, np.ndarray, AttrOPVerdict | None]  # identity, its vector before the noise (512,), verdict


def with_anchors(
    starts: Iterable[Start], generator: nn.Module, encoder: nn.Module, recipe: Recipe, batch_size: int
) -> Iterator[Start]:
    """Give each identity its ``anchor``, (D,) float32, in batches padded to ``batch_size``."""
    starts = iter(starts)
    while batch := list(islice(starts, batch_size)):
        streams = [anchor_stream(recipe.seed, identity.number) for identity, _, _ in batch]
        vectors = np.ones((batch_size, batch[0][1].size), np.float32)
        vectors[: len(batch)] = [vector for _, vector, _ in batch]
        images = decode_rows(generator, vectors, recipe.mask_rates, streams)
        with torch.inference_mode():
            features = encoder(to_images(to_pixels(images))).float().cpu().numpy()  # (B, D)
        for (identity, vector, verdict), feature in zip(batch, features, strict=False):  # further rows are padding
            yield identity._replace(anchor=feature), vector, verdict


@torch.inference_mode()
def decode_rows(
    generator: nn.Module, vectors: np.ndarray, mask_rates: MaskRates, streams: list[np.random.Generator]
) -> torch.Tensor:
    """Images (B, 3, 112, 112) of ``vectors`` (B, 512); rows beyond those with a stream are padding.

    ``streams``: those that the masks of the first rows are drawn from.
    """
    device = next(generator.parameters()).device
    noise, rates = np.zeros((len(vectors), ROWS)), np.ones(len(vectors))
    for slot, stream in enumerate(streams):
        noise[slot], rates[slot] = mask_rates.draw(stream)
    mask = TokenMask.from_noise(torch.from_numpy(noise), mask_rates.minimum, torch.from_numpy(rates)).to(device)
    return generator(upload(torch.from_numpy(vectors), device), mask).images
