"""Identity mixup of generated images: each image's own partner and share, drawn from (seed, identity, image).

Partners come from the whole file of identity vectors, not from a slice of it, so that slices and processes make the
same dataset. AttrOP works on an identity's own vector before it is mixed; the partner's is taken as the file has it,
because another process may be the one that optimises it.
"""

from typing import Any, NamedTuple

import numpy as np

from models.errors import UserError
from utils.data.mixup import Shares, draw_mixture, mixture_entry, mixup_setting
from utils.generation.identity_sampling import mixtures
from utils.generation.streams import mixture_stream


class Mixture(NamedTuple):
    """What is mixed into an image: number, name and vector (512,) of the partner; ``phi``, the share of the other."""

    number: int
    name: str
    vector: np.ndarray
    phi: float

    def of(self, vector: np.ndarray) -> np.ndarray:
        """The mixture of ``vector`` (512,) with the partner's, (512,) float32."""
        return mixtures(vector[None], self.vector[None], np.array([[self.phi]]))[0]

    @property
    def record(self) -> dict[str, Any]:
        """The entry of the image's manifest line."""
        return mixture_entry(self.number, self.name, self.phi)


class IdentityMixup:
    """Draws the mixtures of images.

    ``shares``: the distribution of phi; ``vectors`` (K, 512): all identity vectors; ``first``: the number of the first
    one. Raises UserError when there is only one.
    """

    def __init__(self, shares: Shares, vectors: np.ndarray, first: int = 0):
        if len(vectors) < 2:
            raise UserError("--identity_mixup: there is only one identity vector, and so nobody to mix it with.")
        self.shares, self.vectors, self.first = shares, vectors, first

    def draw(self, seed: int, number: int, index: int) -> Mixture:
        """The mixture of image ``index`` of the identity ``number``."""
        stream = mixture_stream(seed, number, index)
        row, phi = draw_mixture(stream, number - self.first, len(self.vectors), self.shares)
        partner = row + self.first
        return Mixture(partner, f"{partner:06d}", np.array(self.vectors[row], np.float32), phi)

    @property
    def setting(self) -> dict[str, Any]:
        """The entry of settings.json."""
        return mixup_setting(self.shares, len(self.vectors))
