"""Estimators of attributes of a face image, such as its light, an expression or the age: heads on a face encoder.

A face encoder is trained to see the person alone. What its feature leaves out, such as the direction of the light, is
still in its earlier maps, so a head reads all of its stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from models.attrop import Target, close_to
from models.errors import UserError
from models.iresnet import IResNet
from models.weight_files import load_file, load_weights_strict, save_file, sha256, state_dict_of

CELLS = 4  # side of the grid of cells over which the maps are averaged
ROUNDING = 0.01  # of an attribute's range
FULL_RANGE = 100.0  # penalty in AttrOP's loss of a miss by an attribute's whole range, as much as a cosine of 0 costs


@dataclass(frozen=True)
class Attribute:
    """A number that an estimator reads from an image.

    ``unit``: of its values, "" if they have none. ``lowest`` and ``highest``: range of the values that it was trained
    on. ``error`` and ``correlation``: mean absolute error, and correlation with the labels, on held-out photos.
    """

    name: str
    unit: str
    lowest: float
    highest: float
    error: float
    correlation: float

    def includes(self, value: float) -> bool:
        """Whether a value lies in the range, to within the rounding of its ends in a text."""
        slack = ROUNDING * (self.highest - self.lowest)
        return self.lowest - slack <= value <= self.highest + slack

    def in_unit(self, value: float) -> str:
        """A value as text, with its unit."""
        return f"{value:.3g} {self.unit}".rstrip()


class EncoderMaps(nn.Module):
    """The inputs of the heads: RGB images (N, 3, 112, 112) in [-1, 1] -> (N, D) float32.

    They are the maps after each stage of the ``encoder``, averaged over the cells of a grid, and its feature.
    """

    def __init__(self, encoder: IResNet):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = list(self.encoder.maps(images))  # (N, C, H, W) each
        cells = [F.adaptive_avg_pool2d(stage.float(), CELLS).flatten(1) for stage in maps]  # (N, CELLS * CELLS * C)
        return torch.cat([*cells, self.encoder.feature(maps[-1])], 1)  # (N, D)


class AttributeEstimator(nn.Module):
    """Estimator of A attributes: RGB images (N, 3, 112, 112) in [-1, 1] -> (N, A) float32, in the attributes' units.

    ``hidden``: width of the layer between the inputs from the frozen ``encoder`` and the attributes. Gradients reach
    the images.
    """

    def __init__(self, encoder: IResNet, attributes: Sequence[Attribute], inputs: int, hidden: int):
        super().__init__()
        self.inputs, self.attributes = EncoderMaps(encoder), tuple(attributes)
        self.head = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, len(self.attributes)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.inputs(images))

    @property
    def names(self) -> list[str]:
        """Names of the attributes, in the order of the output."""
        return [attribute.name for attribute in self.attributes]

    def index(self, name: str) -> int:
        """The column of an attribute. Raises UserError if the estimator does not know it."""
        if name not in self.names:
            raise UserError(f"{name}: the attribute estimator does not know it; it knows {', '.join(self.names)}.")
        return self.names.index(name)


def attribute_target(estimator: AttributeEstimator, name: str, value: float, tolerance: float | None = None) -> Target:
    """AttrOP's target of a ``value`` of an attribute.

    ``tolerance``: largest distance that passes, by default the estimator's error on held-out photos. The weight makes
    a miss by the whole range cost as much as an image with a cosine of 0 to the identity. Raises UserError for an
    unknown name or a value outside the range of the training photos.
    """
    index = estimator.index(name)
    attribute = estimator.attributes[index]
    if not attribute.includes(value):
        raise UserError(
            f"{name} {value:g}: the estimator has seen values from {attribute.lowest:g} to "
            f"{attribute.in_unit(attribute.highest)}."
        )
    return close_to(
        name, estimator, value, attribute.error if tolerance is None else tolerance,
        weight=FULL_RANGE / (attribute.highest - attribute.lowest), read=lambda values: values[:, index],
    )  # fmt: skip


def save_attribute_estimator(
    path: Path | str, head: nn.Sequential, attributes: Iterable[Attribute], encoder_path: Path | str
) -> None:
    """Write a head as a weight file, its matrices in 16 bit. Raises UserError if the file cannot be written."""
    state = {
        name: (value.half() if value.ndim > 1 else value.float()).contiguous()
        for name, value in head.state_dict().items()
    }
    described = [asdict(attribute) for attribute in attributes]
    save_file({"attributes": described, "encoder_sha256": sha256(encoder_path), "state_dict": state}, path)


def load_attribute_estimator(path: Path | str, encoder: IResNet, encoder_path: Path | str) -> AttributeEstimator:
    """The frozen estimator in a weight file, on the device of ``encoder``, which it was trained with.

    ``encoder_path``: the encoder's weight file. Raises UserError if the file does not contain an estimator, or one of
    another encoder.
    """
    content = load_file(path)
    attributes = attributes_in(content, path)
    if content.get("encoder_sha256") != sha256(encoder_path):
        raise UserError(
            f"{path}: its attribute estimator was trained on another face encoder than {encoder_path}; give that one "
            "with --id_weights, or train an estimator on this one with scripts/train_attribute.py."
        )
    state = state_dict_of(content, path)
    hidden, inputs = state["0.weight"].shape if "0.weight" in state else (1, 1)
    estimator = AttributeEstimator(encoder, attributes, inputs, hidden)
    load_weights_strict(estimator.head, state, path, "an attribute estimator")
    device = next(encoder.parameters()).device
    return estimator.eval().requires_grad_(False).to(device)


def attributes_in(content: Any, path: Path | str) -> list[Attribute]:
    """The attributes that the content of a weight file describes. Raises UserError if it describes none."""
    try:
        return [Attribute(**described) for described in content["attributes"]]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path}: not an attribute estimator; scripts/train_attribute.py trains one on a face encoder."
        ) from error
