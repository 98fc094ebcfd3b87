"""What to generate: an identity, and the recipe for its images."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from models.masking import MaskRates
from utils.generation.landmark_choice import LandmarkChoice


class Identity(NamedTuple):
    """One identity to generate images of.

    ``number`` seeds its random streams, ``name`` is its folder, ``vector`` its identity vector, (512,) float32;
    ``source``: the photo or folder that the vector came from; ``first_image``: the number of existing images, which is
    the index of the first image to generate.
    """

    number: int
    name: str
    vector: np.ndarray
    source: str | None = None
    first_image: int = 0


@dataclass(frozen=True)
class Recipe:
    """The number of images per identity, and how they vary.

    ``example``: images per identity; ``sigmas``: one block of noise levels, see ``streams.image_sigmas``; ``seed``: the
    seed of all random draws; ``mask_rates``: the distribution that mask rates are drawn from. ``landmarks``: chooses
    the landmark pictures of the images, for a generator with a landmark encoder; None without such control.
    """

    example: int
    sigmas: tuple[float, ...]
    seed: int = 0
    mask_rates: MaskRates = field(default_factory=MaskRates)
    landmarks: LandmarkChoice | None = None
