"""The features of the photos of a test, which are read a batch at a time, because a test may have millions."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from models.errors import UserError
from utils.data.images import read_image, resize
from utils.data.photo_loader import Unreadable, read_ahead
from utils.evaluation.verification import features_of


def read_crop(path: Path) -> np.ndarray:
    """An aligned crop as (112, 112, 3) uint8. Raises ValueError or OSError."""
    return resize(read_image(path))


def photo_features(
    encoder: nn.Module,
    items: Sequence[Any],
    batch_size: int,
    workers: int | None,
    name: str,
    read: Callable[[Any], np.ndarray] = read_crop,
) -> np.ndarray:
    """Features (N, D) of photos and their mirror images, summed; ``read(item)`` gives a photo.

    ``items``: paths, or tuples that begin with one.

    ``name``: of the test, for the progress bar. Raises UserError that names a photo that cannot be read.
    """
    photos, features = iter(read_ahead(read, items, workers, batch_size)), []
    with tqdm(total=len(items), desc=name, unit="im", leave=False) as bar:
        while batch := list(islice(photos, batch_size)):
            for item, photo in batch:
                if isinstance(photo, Unreadable):
                    path = item[0] if isinstance(item, tuple) else item
                    raise UserError(f"{path}: cannot be read: {photo.reason}.")
            features.append(features_of(encoder, [photo for _, photo in batch], batch_size))
            bar.update(len(batch))
    return np.concatenate(features)


def lines_of(path: Path, what: str) -> list[list[str]]:
    """The words of each line of a list. Raises UserError when it cannot be read or is empty; ``what``: for messages."""
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read {what}: {getattr(error, 'strerror', None) or error}.") from error
    if not lines:
        raise UserError(f"{path}: empty, where {what} should be.")
    return lines
