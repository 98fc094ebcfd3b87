"""A gate that images must pass to be written: the person by an FR model, the quality by a quality model."""

from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Gate:
    """``minimums``: {"id_similarity" and/or "quality": lowest value that passes}; None values are not asked for.

    ``encoder`` judges the similarity to the identity vector, ``quality_model`` the quality (norm of its feature);
    an image is drawn ``max_tries`` times at most.
    """

    encoder: torch.nn.Module | None
    quality_model: torch.nn.Module | None
    minimums: dict
    max_tries: int

    def measure(self, images, identities):
        """Images (B, 3, 112, 112) in [-1, 1], identity vectors (B, 512) -> {name: (B,)} of what the gate asks for."""
        values = {}
        if "id_similarity" in self.minimums:
            features = self.encoder(images)
            values["id_similarity"] = F.cosine_similarity(features, identities)
        if "quality" in self.minimums:
            shared = "id_similarity" in values and self.quality_model is self.encoder
            values["quality"] = (features if shared else self.quality_model(images)).norm(dim=1)
        return values

    def failures(self, values):
        """{name: number} of one image -> why it does not pass, empty when it does."""
        return ", ".join(
            f"{name} {values[name]:.3f} below {lowest:g}"
            for name, lowest in self.minimums.items()
            if not values[name] >= lowest
        )


class Waiting:
    """An iterator over images to draw, those to be drawn again first; after its end it goes on when more come back."""

    def __init__(self, drawn):
        self.drawn, self.again = iter(drawn), deque()

    def __iter__(self):
        return self

    def __next__(self):
        return self.again.popleft() if self.again else next(self.drawn)
