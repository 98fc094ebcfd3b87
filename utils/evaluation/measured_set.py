"""A dataset with the FR features of its images, from which everything about the dataset is measured."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from models.errors import UserError
from models.iresnet import IResNet
from models.pixels import to_images
from utils.data.face_set import FaceSet
from utils.data.photo_loader import Unreadable, read_faces
from utils.evaluation import metrics
from utils.evaluation.feature_cache import FeatureCache


class MeasuredSet:
    """A FaceSet with the FR features of those images that can be read.

    ``features`` (N, D), ``labels`` (N,), ``indices`` (N,): positions of these images in the FaceSet; ``counts`` (C,),
    the number of images of each identity; ``sums`` (C, D), the sums of their directions; ``centroids`` (C, D), the
    class centroids, of length 1. Raises UserError when not one image can be read.
    """

    def __init__(
        self,
        faces: FaceSet,
        cache_path: Path | str,
        encoder: IResNet,
        encoder_hash: str,
        precision: str,
        batch_size: int,
        workers: int | None = None,
    ):
        """``cache_path``: where the features are kept, without an ending; ``workers``: as in ``read_ahead``."""
        self.faces, self.workers = faces, workers
        self.features, self.indices = FeatureCache(cache_path, faces, encoder, encoder_hash, precision).fill(
            batch_size, workers
        )
        if not len(self.indices):
            raise UserError(f"{faces.path}: not one image could be read.")
        self.labels = faces.labels[self.indices]
        self.counts = np.bincount(self.labels, minlength=len(faces.identities))
        self.sums = metrics.sums_of(self.features, self.labels, len(faces.identities))
        self.centroids = metrics.normalised(self.sums)

    def images(self, rows: Sequence[int]) -> np.ndarray:
        """(n, 112, 112, 3) uint8, the images of some rows of ``features``."""
        return np.stack([self.faces.image(int(self.indices[row])) for row in rows])

    def images_of(self, label: int, most: int) -> list[np.ndarray]:
        """At most ``most`` images of an identity, the first ones, (112, 112, 3) uint8 each."""
        return [self.images([row])[0] for row in np.flatnonzero(self.labels == label)[:most]]

    @torch.inference_mode()
    def outputs(self, model: nn.Module, rows: np.ndarray, batch_size: int, description: str) -> torch.Tensor:
        """What a frozen model returns for the images of some rows, (n, D) float32 on the CPU.

        ``description``: label of the progress bar.
        """
        device, parts = next(model.parameters()).device, []
        photos = read_faces(self.faces, self.indices[rows], self.workers, batch_size)
        for _ in tqdm(range(0, len(rows), batch_size), desc=description, leave=False, delay=2):
            images = np.stack([self._still_readable(*photo) for photo in islice(photos, batch_size)])
            parts.append(model(to_images(torch.from_numpy(images).to(device))).float().cpu())  # (B, D)
        return torch.cat(parts)

    def _still_readable(self, index: int, image: np.ndarray | Unreadable) -> np.ndarray:
        if isinstance(image, Unreadable):
            raise UserError(f"{self.faces.name(index)}: {image.reason}; it could be read a while ago.")
        return image
