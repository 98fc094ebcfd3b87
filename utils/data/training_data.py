"""The training data of the generator: photos with their FR features, from a training LMDB."""

import io
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import NamedTuple

import cv2
import msgpack
import numpy as np
import torch
from torch.utils.data import Dataset

from models.errors import UserError
from models.weight_files import sha256
from utils.data.images import SIDE, resize
from utils.data.masks import load_mask
from utils.data.training_lmdb import ENCODER, LazyLmdb, decode_record, open_lmdb, unpack_record

SCORED = 256  # largest number of held-out photos that are scored
AUGMENTATIONS = ("noaug", "flip", "randcrop", "randresizedcrop")
PADDING = 8  # pixels added on each side before a random crop
SMALLEST_AREA = 0.2  # smallest area of a random resized crop, as a fraction of the image


class TrainingItem(NamedTuple):
    """One record of the training LMDB, or, with a leading dimension B, a batch of them."""

    pixels: torch.Tensor  # (112, 112, 3) uint8
    vector: torch.Tensor  # (D,) float32, the photo's FR feature
    position: int  # of the record in the LMDB
    error: str  # why the record is broken; empty if it is not


def augment(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 -> (112, 112, 3): a random crop and flip, or for ``flip`` the latter only."""
    if kind == "noaug":
        return image
    if kind == "randcrop":
        image = cv2.copyMakeBorder(image, *[PADDING] * 4, cv2.BORDER_REFLECT)
        y, x = rng.integers(0, 2 * PADDING + 1, 2)
        image = image[y : y + SIDE, x : x + SIDE]
    elif kind == "randresizedcrop":
        side = round(SIDE * rng.uniform(SMALLEST_AREA, 1) ** 0.5)
        y, x = rng.integers(0, SIDE - side + 1, 2)
        image = resize(image[y : y + side, x : x + side])
    return image[:, ::-1] if rng.random() < 0.5 else image


class TrainingData(Dataset):
    """Photos with their FR features: item ``(epoch, index)`` is a TrainingItem.

    ``mask``: a ``.npy`` of the positions to use. ``augmentation``: one of AUGMENTATIONS, drawn from (seed, epoch,
    position). ``width``: the length of the features. A broken record becomes zeros with an error text.
    Raises UserError when the LMDB or the mask is not of the expected kind.
    """

    def __init__(
        self,
        path: Path | str,
        mask: Path | str | None = None,
        augmentation: str = "noaug",
        seed: int = 0,
        width: int = 512,
    ):
        self.path, self.augmentation, self.seed, self.width = path, augmentation, seed, width
        self.lmdb = LazyLmdb(path)
        env = open_lmdb(path)
        with env, env.begin() as transaction:
            count = transaction.get(b"__len__")
            self.count = msgpack.unpackb(count) if count else 0
            first = transaction.get(b"0")
            last = transaction.get(str(self.count - 1).encode())
            self.encoder = (transaction.get(ENCODER) or b"").decode()  # SHA-256, empty where it is not known
        if not self.count or first is None:
            raise UserError(f"{path}: an empty LMDB, or one of another kind (no records 0.. and __len__).")
        if last is None:
            raise UserError(f"{path}: says it has {self.count} records, but record {self.count - 1} is missing.")
        self._check_kind(first)
        self.positions = load_mask(mask, self.count, path) if mask else np.arange(self.count)  # (N,)

    def encoder_warnings(self, id_weights: Path | str) -> list[str]:
        """A line when the features are known to be of another face encoder than the one in a weight file."""
        if not self.encoder or self.encoder == sha256(id_weights):
            return []
        return [
            f"warning: the features in {self.path} are of another face encoder than {id_weights} (--id_weights), so "
            "the identity loss compares vectors that have nothing in common."
        ]

    def _check_kind(self, first: bytes) -> None:
        fields = msgpack.unpackb(first)
        if len(fields) == 4 and isinstance(fields[1], int):
            raise UserError(
                f"{self.path}: holds mixtures of two identities with soft labels, which only train_fr.py reads; the "
                "generator is trained on photos of one identity each, with features (scripts/prepare_training_set.py)."
            )
        if len(fields) == 2:
            raise UserError(
                f"{self.path}: holds images without features (FR-training format). "
                "scripts/prepare_training_set.py makes a training set from a folder of images."
            )
        width = np.load(io.BytesIO(fields[1]), allow_pickle=False).size
        if width != self.width:
            raise UserError(f"{self.path}: features have width {width}; --rep_dim says {self.width}.")

    def with_mask(self, path: Path | str) -> "TrainingData":
        """The records of the same LMDB at the positions of another mask, without augmentation.

        Raises UserError when the mask does not fit.
        """
        other = copy(self)
        other.positions, other.augmentation = load_mask(path, self.count, self.path), "noaug"
        return other

    def feature_norms(self, count: int = 1000) -> tuple[float, float]:
        """Mean and standard deviation of the norms of the first ``count`` features."""
        norms = []
        for position in self.positions[:count]:
            with suppress(ValueError):  # broken records are reported during training
                norms.append(float(np.linalg.norm(unpack_record(self.lmdb.get(str(int(position)).encode()))[1])))
        self.close()
        return (float(np.mean(norms)), float(np.std(norms))) if norms else (0.0, 0.0)

    def close(self) -> None:
        """Close the LMDB; reading an item opens it again."""
        self.lmdb.close()

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: tuple[int, int]) -> TrainingItem:
        epoch, index = item
        position = int(self.positions[index])
        try:
            image, vector, _ = decode_record(self.lmdb.get(str(position).encode()), self.width)
        except ValueError as error:
            pixels = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
            return TrainingItem(pixels, torch.zeros(self.width), position, f"record {position}: {error}")
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, position)))
        image = np.ascontiguousarray(augment(image, self.augmentation, rng))
        return TrainingItem(torch.from_numpy(image), torch.from_numpy(vector), position, "")


def evenly_spread(held_out: TrainingData) -> np.ndarray:
    """The indices of at most SCORED records, spread evenly over all, (S,)."""
    return np.linspace(0, len(held_out) - 1, min(SCORED, len(held_out))).astype(int)


def held_out_data(data: TrainingData, mask: Path | str) -> TrainingData:
    """The records at the positions of ``mask``. Raises UserError when some are training records."""
    held_out = data.with_mask(mask)
    shared = np.intersect1d(held_out.positions, data.positions).size
    if shared:
        raise UserError(f"--held_out {mask}: {shared} of its records are trained on; give --mask without them.")
    return held_out
