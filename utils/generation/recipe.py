"""What to generate: an identity, and the recipe for its images."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from models.masking import MaskRates
from utils.generation.identity_mixup import IdentityMixup
from utils.generation.landmark_choice import LandmarkChoice


class Identity(NamedTuple):
    """One identity to generate images of.

    ``number`` seeds its random streams, ``name`` is its folder, ``vector`` its identity vector, (512,) float32;
    ``source``: the photo or folder that the vector came from; ``first_image``: the number of existing images, which is
    the index of the first image to generate; ``lower_bound``: with noise in a cone, the smallest cosine of an image's
    vector to ``vector`` (cone_noise.py), None for the recipe's; ``anchor``: what a second face encoder compares its
    images with (anchors.py), (D,) float32.
    """

    number: int
    name: str
    vector: np.ndarray
    source: str | None = None
    first_image: int = 0
    lower_bound: float | None = None
    anchor: np.ndarray | None = None


@dataclass(frozen=True)
class Recipe:
    """The number of images per identity, and how they vary.

    ``example``: images per identity; ``sigmas``: one block of noise levels, see ``streams.image_sigmas``; ``seed``: the
    seed of all random draws; ``mask_rates``: the distribution that mask rates are drawn from, None for UIFace, which
    has none; ``lower_bound``: None for Gaussian noise, or for noise in a cone, which has no levels, the smallest cosine
    of an image's vector to its identity vector. ``landmarks``: chooses the landmark pictures of the images, for a
    generator with a landmark encoder; None without such control. ``mixup``: mixes the identity of every image with
    another one, None for no mixup.
    """

    example: int
    sigmas: tuple[float, ...] = ()
    seed: int = 0
    mask_rates: MaskRates | None = field(default_factory=MaskRates)
    lower_bound: float | None = None
    landmarks: LandmarkChoice | None = None
    mixup: IdentityMixup | None = None

    def __post_init__(self):
        if bool(self.sigmas) == (self.lower_bound is not None):
            raise ValueError("a recipe needs either noise levels or the lower bound of a cone")
