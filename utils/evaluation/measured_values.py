"""Values that models read from the images of a dataset: quality, pose and attributes such as light, smile or age."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from models.attribute_estimator import load_attribute_estimator
from models.iresnet import load_face_encoder
from models.sixdrepnet import load_pose_estimator
from utils.evaluation.measured_set import MeasuredSet

ANGLES = {"pitch": 0, "yaw": 1}  # columns of the pose model's output
WIDEST = 90.0  # degrees to either side


class Value(NamedTuple):
    """A value that is read from each image. ``limits``: the range that it spreads over, None where it has none."""

    name: str
    limits: tuple[float, float] | None
    column: Callable[[torch.Tensor], torch.Tensor]  # the output (N, D) of the model -> (N,)


class Reader(NamedTuple):
    """A model with the values that it reads."""

    title: str  # for progress bars
    model: nn.Module
    values: list[Value]


def load_readers(
    device: torch.device, dtype: torch.dtype, quality_weights: Path | str | None = None,
    pose_weights: Path | str | None = None, attribute_weights: Path | str | None = None,
    attribute_encoder: Path | str | None = None,
) -> list[Reader]:  # fmt: skip
    """The readers of the weight files that are given.

    ``attribute_encoder``: the file of the face encoder that the attribute estimator was trained with. Raises UserError
    when a file is missing or holds something else.
    """
    readers = []
    if quality_weights:
        model = load_face_encoder(quality_weights, device, dtype)
        readers.append(Reader("quality", model, [Value("quality", None, lambda features: features.norm(dim=1))]))
    if pose_weights:
        model = load_pose_estimator(pose_weights, device, dtype)
        readers.append(Reader("pose", model, [Value(name, (-WIDEST, WIDEST), column(i)) for name, i in ANGLES.items()]))
    if attribute_weights:
        encoder = load_face_encoder(attribute_encoder, device, dtype)
        model = load_attribute_estimator(attribute_weights, encoder, attribute_encoder)
        values = [Value(a.name, (a.lowest, a.highest), column(i)) for i, a in enumerate(model.attributes)]
        readers.append(Reader("attributes", model, values))
    return readers


def column(index: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function that takes one column of an output (N, D): (N,)."""
    return lambda output: output[:, index]


def read_values(
    data: MeasuredSet, rows: np.ndarray, readers: list[Reader], batch_size: int
) -> dict[str, np.ndarray]:  # fmt: skip
    """The values of the images of some rows of the features, (n,) float32 each, by name."""
    result = {}
    for reader in readers:
        output = data.outputs(reader.model, rows, batch_size, reader.title)  # (n, D)
        result |= {value.name: value.column(output).numpy() for value in reader.values}
    return result
