"""Measurements on images as they are generated: similarities, quality, yaw and pitch, landmarks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from utils.generation import landmark_check
from utils.generation.decoding import example_image
from utils.generation.identity_sampling import highest_similarity
from utils.generation.landmark_check import LandmarkCheck
from utils.runtime.device import uncompiled

Result = TypeVar("Result")

# Cost of a float32 operation relative to a 16-bit one. Measured ratios for convolutions and matrix products are 6 to 9
# on CPUs with AMX, and higher on GPUs with float32 units.
COST_OF_FLOAT32 = 8


@dataclass(frozen=True)
class ImageMeasures:
    """Measures the images of a batch; measures whose model is None are left out.

    ``encoder``: face encoder for ``id_similarity``, the cosine of the image's feature to the identity vector;
    ``quality_model``: the norm of its feature is ``quality``; if it is the encoder, one forward pass serves both;
    ``pose_model``: ``yaw`` and ``pitch`` in degrees; ``gate_encoder``: another face encoder for ``gate_similarity``,
    the cosine of its features of the image and of the identity's anchor; ``avoid``: unit features of people (M, 512) in
    the space of ``encoder``, for ``avoid_similarity``, the largest cosine to one of them; ``landmark_check``:
    ``faces`` and ``landmark_error``; ``attribute_model``: an estimator, for its ``attributes``.
    """

    encoder: nn.Module | None = None
    quality_model: nn.Module | None = None
    pose_model: nn.Module | None = None
    gate_encoder: nn.Module | None = None
    avoid: torch.Tensor | None = None
    landmark_check: LandmarkCheck | None = None
    attribute_model: nn.Module | None = None
    attributes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the measures, in the order of the manifest."""
        names = ["id_similarity"] if self.encoder is not None else []
        names += ["quality"] if self.quality_model is not None else []
        names += ["yaw", "pitch"] if self.pose_model is not None else []
        names += ["gate_similarity"] if self.gate_encoder is not None else []
        names += ["avoid_similarity"] if self.avoid is not None else []
        names += self.attributes
        return names + (list(landmark_check.NAMES) if self.landmark_check is not None else [])

    @torch.inference_mode()
    def __call__(
        self, images: torch.Tensor, identities: torch.Tensor, anchors: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Images (B, 3, 112, 112) in [-1, 1] and identity vectors (B, 512) -> {name: (B,) float32}.

        ``anchors``: (B, D), for the second encoder. The landmark check works on pixels in memory: ``on_pixels``.
        """
        values, features = {}, None
        if self.encoder is not None:
            features = self.encoder(images)  # (B, 512)
            values["id_similarity"] = F.cosine_similarity(features.float(), identities)
        if self.quality_model is not None:
            shared = self.quality_model is self.encoder
            values["quality"] = (features if shared else self.quality_model(images)).float().norm(dim=1)
        if self.pose_model is not None:
            angles = self.pose_model(images).float()  # (B, 3): pitch, yaw, roll
            values |= {"yaw": angles[:, 1], "pitch": angles[:, 0]}
        if self.gate_encoder is not None:
            shared = self.gate_encoder is self.encoder
            other = (features if shared else self.gate_encoder(images)).float()  # (B, D)
            values["gate_similarity"] = F.cosine_similarity(other, anchors)
        if self.avoid is not None:
            values["avoid_similarity"] = highest_similarity(F.normalize(features.float()), self.avoid)
        if self.attributes:
            estimated = self.attribute_model(images)  # (B, A)
            values |= {name: estimated[:, self.attribute_model.index(name)] for name in self.attributes}
        return values

    def on_pixels(self, pixels: np.ndarray) -> dict[str, float]:
        """(112, 112, 3) uint8 -> what the landmark check measures, if there is one."""
        return self.landmark_check(pixels) if self.landmark_check is not None else {}

    def cost(self, generator: nn.Module) -> float:
        """Cost of measuring an image relative to decoding it, from the operations counted on one image."""
        generator = uncompiled(generator)
        measures = ImageMeasures(*map(uncompiled, (self.encoder, self.quality_model, self.pose_model)))
        parameter = next(generator.parameters())
        images, drawing = operations(lambda: example_image(generator))
        _, measuring = operations(lambda: measures(images.float(), torch.ones(1, 512, device=parameter.device)))
        return measuring * (1 if parameter.dtype == torch.float32 else COST_OF_FLOAT32) / drawing


def operations(work: Callable[[], Result]) -> tuple[Result, int]:
    """(result of ``work()``, number of floating-point operations of its matrix products and convolutions)."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return result, counter.get_total_flops()
