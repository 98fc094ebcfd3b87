"""What to generate: an identity, and the recipe for its images."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from models.masking import MaskRates


class Identity(NamedTuple):
    """One identity to draw.

    ``number`` seeds the random streams, ``name`` is the folder, ``vector`` is (512,) float32; ``source``: the photo or
    folder that the vector came from; ``first_image``: how many of its images there are already.
    """

    number: int
    name: str
    vector: np.ndarray
    source: str | None = None
    first_image: int = 0


@dataclass(frozen=True)
class Recipe:
    """How many images an identity gets, and how they vary. ``sigmas``: one block of noise levels, see image_sigmas."""

    example: int
    sigmas: tuple
    seed: int = 0
    masks: MaskRates = field(default_factory=MaskRates)
