"""What a training reads: items of the training LMDB, augmented, in the batches of an epoch."""

import io
import os
import signal
from contextlib import suppress
from copy import copy

import cv2
import msgpack
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from models.errors import UserError
from utils.data.images import SIDE, resize
from utils.data.masks import load_mask
from utils.data.training_lmdb import LazyLmdb, decode_record, open_lmdb, unpack_record
from utils.runtime.signals import STOP_SIGNALS

AUGMENTATIONS = ("noaug", "randcrop", "randresizedcrop")
PADDING = 8  # pixels around the image before a random crop
SMALLEST_AREA = 0.2  # of the image, of a random resized crop


def augment(image, kind, rng):
    """(H, W, 3) uint8 -> (112, 112, 3): a random crop and flip, or nothing for ``noaug``."""
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
    """Photos with their FR features. Item ``(epoch, index)`` -> pixels (112, 112, 3) uint8, feature, position, error.

    ``mask``: ``.npy`` of positions to use. A broken record gives an error text and zeros.
    Raises UserError when the LMDB or the mask cannot be what they should be.
    """

    def __init__(self, path, mask=None, augmentation="noaug", seed=0, width=512):
        self.path, self.augmentation, self.seed, self.width = path, augmentation, seed, width
        self.lmdb = LazyLmdb(path)
        env = open_lmdb(path)
        with env, env.begin() as transaction:
            count = transaction.get(b"__len__")
            self.count = msgpack.unpackb(count) if count else 0
            first = transaction.get(b"0")
            last = transaction.get(str(self.count - 1).encode())
        if not self.count or first is None:
            raise UserError(f"{path}: an empty LMDB, or one of another kind (no records 0.. and __len__).")
        if last is None:
            raise UserError(f"{path}: says it has {self.count} records, but record {self.count - 1} is missing.")
        self._check_kind(first)
        self.positions = load_mask(mask, self.count, path) if mask else np.arange(self.count)

    def _check_kind(self, first):
        fields = msgpack.unpackb(first)
        if len(fields) == 2:
            raise UserError(
                f"{self.path}: holds images without features (FR-training format). "
                "scripts/prepare_training_set.py makes a training set from a folder of images."
            )
        width = np.load(io.BytesIO(fields[1]), allow_pickle=False).size
        if width != self.width:
            raise UserError(f"{self.path}: features have width {width}; --rep_dim says {self.width}.")

    def of_mask(self, path):
        """The records at other positions of the same LMDB, as they are. Raises UserError when the mask does not fit."""
        other = copy(self)
        other.positions, other.augmentation = load_mask(path, self.count, self.path), "noaug"
        return other

    def feature_norms(self, count=1000):
        """(mean, standard deviation) of the norms of the first features: what the vectors of this data are like."""
        norms = []
        for position in self.positions[:count]:
            with suppress(ValueError):  # broken records are counted where they are used
                norms.append(float(np.linalg.norm(unpack_record(self.lmdb.get(str(int(position)).encode()))[1])))
        self.close()
        return (float(np.mean(norms)), float(np.std(norms))) if norms else (0.0, 0.0)

    def close(self):
        """Let go of the LMDB, until the next item."""
        self.lmdb.close()

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, item):
        epoch, index = item
        position = int(self.positions[index])
        try:
            image, feature, _ = decode_record(self.lmdb.get(str(position).encode()), self.width)
        except ValueError as error:
            return torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8), torch.zeros(self.width), position, str(error)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, position)))
        image = np.ascontiguousarray(augment(image, self.augmentation, rng))
        return torch.from_numpy(image), torch.from_numpy(feature), position, ""


class EpochBatches(Sampler):
    """The batches of one rank in an epoch, as lists of (epoch, index). No record occurs twice in an epoch.

    ``steps``: batches per epoch, the same number on every rank. The order depends on (seed, epoch) alone. Iteration
    starts with the first epoch unless ``begin`` has chosen another one.
    """

    def __init__(self, count, batch_size, seed, rank=0, world_size=1):
        self.count, self.batch_size, self.seed, self.rank, self.world_size = count, batch_size, seed, rank, world_size
        self.steps = count // (batch_size * world_size)
        self.begin(0)

    def begin(self, epoch, first=0, end=None):
        """Choose what the next iteration gives: the batches ``first`` to ``end`` (default: the last) of an epoch."""
        self.epoch, self.chosen = epoch, range(self.steps)[first:end]

    def __len__(self):
        return len(self.chosen)

    def __iter__(self):
        epoch, chosen = self.epoch, self.chosen
        order = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,))).permutation(self.count)
        order = order[: self.steps * self.world_size * self.batch_size]
        order = order.reshape(self.steps, self.world_size, self.batch_size)[:, self.rank].copy()  # (steps, B)
        for step in chosen:
            yield [(epoch, index) for index in order[step].tolist()]


def without_broken(errors, *columns):
    """The columns (B, ...) of a batch without the rows that have an error; the same tensors when there are none."""
    if not any(errors):
        return columns
    good = torch.tensor([not error for error in errors])
    return tuple(column[good] for column in columns)


def leave_signals_to_the_parent(worker):
    """Ctrl-C and a cluster's signals reach all processes of a job; only the training loop may answer."""
    for number in (signal.SIGINT, *STOP_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


def make_loader(data, batches, workers, pin_memory):
    """A loader of the batches that a sampler, or a list of lists of items, gives at each iteration.

    The worker processes live as long as the loader, so that an epoch does not have to start them again.
    """
    workers = min(workers, len(os.sched_getaffinity(0)))
    options = {"prefetch_factor": 4, "worker_init_fn": leave_signals_to_the_parent, "persistent_workers": True}
    return DataLoader(
        data, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory, **(options if workers else {})
    )
