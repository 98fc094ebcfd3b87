"""The training data of landmark control: photos with FR features and landmark pictures."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from models.errors import UserError
from utils.data.alignment import FaceDetector
from utils.data.face_labels import labels_by_name
from utils.data.images import SIDE, decode_image
from utils.data.landmarks import draw_landmarks, landmarks_of_label
from utils.data.training_data import TrainingData
from utils.data.training_lmdb import landmark_field, photo_names, unpack_record

VECTORS = ("photo", "identity")
SMALLEST_FACE = 40  # pixels, of a face that the detector looks for in an aligned photo

PictureOf = Callable[[int, bytes, np.ndarray], np.ndarray]


class LandmarkItem(NamedTuple):
    """One record, or, with a leading dimension B, a batch of them."""

    pixels: torch.Tensor  # (112, 112, 3) uint8
    picture: torch.Tensor  # (112, 112, 3) uint8, of the landmarks
    vector: torch.Tensor  # (D,) float32
    position: int  # of the record in the LMDB
    error: str  # why the record is broken; empty if it is not


class StoredPictures:
    """The landmark pictures in the records of the LMDB, as Vec2Face+ publishes them."""

    def __call__(self, position: int, record: bytes, photo: np.ndarray) -> np.ndarray:
        picture = decode_image(landmark_field(record))
        if picture.shape != (SIDE, SIDE, 3):
            raise ValueError(f"a landmark picture of {picture.shape[1]} x {picture.shape[0]} pixels")
        return picture


class DetectedLandmarks:
    """The landmarks that MTCNN finds in the photos. Raises UserError if its package is missing."""

    def __init__(self):
        self.detector = FaceDetector(SMALLEST_FACE)

    def __call__(self, position: int, record: bytes, photo: np.ndarray) -> np.ndarray:
        return draw_landmarks(self.detector.landmarks(photo))


class LabelledLandmarks:
    """The landmarks in the labels of rendered photos, or those of an average head at the labelled poses.

    ``path``: the labels.jsonl; ``lmdb``: the training LMDB, which knows the names of its photos. Raises UserError when
    a photo has no label, or an unsuitable one.
    """

    def __init__(self, path: Path | str, lmdb: Path | str):
        labels = labels_by_name(path, photo_names(lmdb))
        try:
            self.points = np.stack([landmarks_of_label(label) for label in labels])  # (N, 5, 2)
        except (ValueError, TypeError):
            self._name_the_first_bad_one(path, labels)

    @staticmethod
    def _name_the_first_bad_one(path: Path | str, labels: Sequence[dict]) -> None:
        for label in labels:
            try:
                landmarks_of_label(label)
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}: {label['file']}: {error}.") from error

    def __call__(self, position: int, record: bytes, photo: np.ndarray) -> np.ndarray:
        return draw_landmarks(self.points[position])


def picture_source(landmarks: str, lmdb: Path | str) -> PictureOf:
    """Where landmark pictures come from: "lmdb", "mtcnn", or a file of labels. Raises UserError as the sources do.

    The result maps (position, record, photo (112, 112, 3) uint8 RGB) to a picture (112, 112, 3) uint8 RGB, and raises
    ValueError for a record without landmarks.
    """
    if landmarks == "lmdb":
        return StoredPictures()
    return DetectedLandmarks() if landmarks == "mtcnn" else LabelledLandmarks(landmarks, lmdb)


class LandmarkData(Dataset):
    """Item ``(epoch, index)`` is a LandmarkItem. A broken record becomes zeros with an error text.

    ``data``: the photos and features, without augmentation. ``picture_of``: the result of ``picture_source``.
    ``vectors``: "photo" for each photo's own feature, "identity" for the mean of the features of its identity, which
    says nothing of the photo's pose.
    """

    def __init__(self, data: TrainingData, picture_of: PictureOf, vectors: str = "photo"):
        self.data, self.picture_of = data, picture_of
        self.means = identity_means(data) if vectors == "identity" else None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: tuple[int, int]) -> LandmarkItem:
        photo = self.data[item]
        picture, error = np.zeros((SIDE, SIDE, 3), np.uint8), photo.error
        if not error:
            try:
                record = self.data.lmdb.get(str(photo.position).encode())
                picture = self.picture_of(photo.position, record, photo.pixels.numpy())
            except (ValueError, OSError) as reason:
                error = f"record {photo.position}: {reason}"
        vector = photo.vector if self.means is None or error else torch.from_numpy(self.means[photo.position])
        return LandmarkItem(photo.pixels, torch.from_numpy(picture), vector, photo.position, error)


def identity_means(data: TrainingData) -> dict[int, np.ndarray]:
    """{position: mean feature (D,) float32 of the record's identity}, over the records in use that are not broken.

    The mean of the directions, scaled to the mean norm.
    """
    labels, sums, counts = {}, {}, {}
    for position in map(int, data.positions):
        with suppress(ValueError):  # reported during training
            _, feature, label = unpack_record(data.lmdb.get(str(position).encode()))
            norm = np.linalg.norm(feature)
            if np.isfinite(norm) and norm > 0:
                labels[position] = label
                total, norms = sums.get(label, (0, 0))
                sums[label], counts[label] = (total + feature / norm, norms + norm), counts.get(label, 0) + 1
    data.close()
    means = {
        label: (direction / np.linalg.norm(direction) * norms / counts[label]).astype(np.float32)
        for label, (direction, norms) in sums.items()
    }
    return {position: means[label] for position, label in labels.items()}
