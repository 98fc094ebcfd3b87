"""What a second face encoder compares images with: its feature of the image of the vector without noise, the anchor.

Identity vectors mean nothing to an encoder other than the generator's. So the second encoder sees one more image of
each identity, which is decoded from the identity's vector (in identity mode AttrOP's) with a mask of its own random
stream, and is not written. Under landmark control it has the landmarks of an average frontal head, because an image
without landmarks is one that the generator was not adapted for, and a frontal face shows an identity best.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
import torch.nn as nn

from models.pixels import to_images, to_pixels
from utils.dataset.image_record import AttrOPVerdict
from utils.generation.decoding import decode_rows, frontal_only
from utils.generation.recipe import Identity, Recipe
from utils.generation.streams import anchor_stream

Start = tuple[Identity, np.ndarray, AttrOPVerdict | None]  # identity, its vector before the noise (512,), verdict


def with_anchors(
    starts: Iterable[Start], generator: nn.Module, encoder: nn.Module, recipe: Recipe, batch_size: int
) -> Iterator[Start]:
    """Give each identity its ``anchor``, (D,) float32, in batches padded to ``batch_size``."""
    starts = iter(starts)
    if recipe.landmarks is not None:
        generator = frontal_only(generator)
    while batch := list(islice(starts, batch_size)):
        streams = [anchor_stream(recipe.seed, identity.number) for identity, _, _ in batch]
        vectors = np.ones((batch_size, batch[0][1].size), np.float32)
        vectors[: len(batch)] = [vector for _, vector, _ in batch]
        images = decode_rows(generator, vectors, recipe.mask_rates, streams).images
        with torch.inference_mode():
            features = encoder(to_images(to_pixels(images))).float().cpu().numpy()  # (B, D)
        for (identity, vector, verdict), feature in zip(batch, features, strict=False):  # further rows are padding
            yield identity._replace(anchor=feature), vector, verdict
