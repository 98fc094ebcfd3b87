"""The training LMDB, read and written: key ``b"0"``.. -> msgpack (image bytes, .npy bytes of the FR feature, label)."""

import io
import os
import signal
from contextlib import suppress
from copy import copy
from pathlib import Path

import cv2
import lmdb
import msgpack
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from utils.dataset_lmdb import GrowingLmdb
from utils.errors import UserError
from utils.images import SIDE, decode_image, resize

AUGMENTATIONS = ("noaug", "randcrop", "randresizedcrop")
PADDING = 8  # pixels around the image before a random crop
SMALLEST_AREA = 0.2  # of the image, of a random resized crop
RECORDS_PER_TRANSACTION = 1000
NEXT_SOURCE = b"__next_source__"
SOURCE = b"__source__"


def open_lmdb(path):
    """Open an LMDB file or folder for reading. Raises UserError when it is missing or none."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such LMDB.")
    try:
        return lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise UserError(f"{path}: not an LMDB, or damaged ({error}).") from error


def unpack_record(data):
    """msgpack bytes -> (encoded image, feature (D,) float32, label). ValueError when broken."""
    try:
        image, feature, label = msgpack.unpackb(data)
        feature = np.load(io.BytesIO(feature), allow_pickle=False).astype(np.float32).reshape(-1)
    except (ValueError, TypeError, EOFError, OSError, msgpack.UnpackException) as error:
        raise ValueError(f"not a training record: {error}") from error
    return image, feature, label


def decode_record(data, width):
    """msgpack bytes -> (image (112, 112, 3) uint8 RGB, feature (width,) float32, label). ValueError when broken."""
    image, feature, label = unpack_record(data)
    if feature.shape != (width,) or not np.isfinite(feature).all():
        raise ValueError(f"a feature of width {feature.size}, or not finite, where {width} numbers are needed")
    return resize(decode_image(image)), feature, int(label)


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


def load_mask(path, count, source):
    """Positions to use, (n,) integers, of the ``count`` records of ``source``. Raises UserError when they cannot be."""
    try:
        mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a mask (.npy of whole numbers): {error}") from error
    if mask.ndim != 1 or not np.issubdtype(mask.dtype, np.integer) or mask.size == 0:
        raise UserError(f"{path}: a mask is a list of whole numbers, this is {mask.dtype} of shape {mask.shape}.")
    if mask.min() < 0 or mask.max() >= count:
        raise UserError(f"{path}: has positions {mask.min()} to {mask.max()}; {source} has {count} records.")
    return mask


class LazyLmdb:
    """An LMDB that is opened by the process that reads it, when it reads: a process can have it open only once."""

    def __init__(self, path):
        self.path, self.env = path, None

    def get(self, key):
        """The value of a key as bytes, empty when there is none."""
        return self.read(key, bytes)

    def read(self, key, how):
        """``how`` of the value's buffer, which is valid during the call only."""
        if self.env is None:
            self.env = open_lmdb(self.path)
        with self.env.begin(buffers=True) as transaction:
            return how(transaction.get(key) or b"")

    def close(self):
        """Let go of it, until it is read again."""
        if self.env is not None:
            self.env.close()
            self.env = None


class TrainingData(Dataset):
    """Photos with their FR features. Item ``(epoch, position)`` -> image (3, 112, 112) in [-1, 1], feature, key, error.

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
            return torch.zeros(3, SIDE, SIDE), torch.zeros(self.width), position, str(error)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, position)))
        image = np.ascontiguousarray(augment(image, self.augmentation, rng))
        image = torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1  # (H, W, 3) -> (3, H, W)
        return image, torch.from_numpy(feature), position, ""


def epoch_batches(count, batch_size, seed, epoch, rank, world_size):
    """This rank's batches of an epoch, as lists of (epoch, index): every rank the same number, no record twice."""
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,))).permutation(count)
    steps = count // (batch_size * world_size)
    order = order[: steps * batch_size * world_size].reshape(steps, world_size, batch_size)[:, rank]
    return [[(epoch, int(index)) for index in batch] for batch in order]


def leave_signals_to_the_parent(worker):
    """Ctrl-C and a cluster's SIGTERM reach all processes of a job; only the training loop may answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def make_loader(data, batches, workers, pin_memory):
    """Batches of (images (B, 3, 112, 112), features (B, 512), positions (B,), errors) in the given order."""
    workers = min(workers, len(os.sched_getaffinity(0)))
    options = {"prefetch_factor": 4, "worker_init_fn": leave_signals_to_the_parent} if workers else {}
    return DataLoader(data, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory, **options)


class TrainingLmdbWriter:
    """Appends records to a training LMDB, and knows where an earlier run stopped.

    ``fingerprint``: bytes that tell its source; UserError when it was begun with another one. ``count``: records in
    it; ``next_source``: number of the first source photo that was not dealt with yet.
    """

    def __init__(self, path, fingerprint):
        self.lmdb, self.pending, self.fingerprint = GrowingLmdb(path), [], fingerprint
        with self.lmdb.env.begin() as transaction:
            if transaction.get(SOURCE, fingerprint) != fingerprint:
                self.lmdb.close()
                raise UserError(f"{path}: was begun with other photos; delete it, or choose another --file_name.")
            self.count, self.next_source = (
                msgpack.unpackb(transaction.get(key, b"\0")) for key in (b"__len__", NEXT_SOURCE)
            )

    def add(self, source, image, feature, label):
        """``source``: number of the photo, ``image``: encoded bytes, ``feature``: (512,) float32, ``label``: int."""
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(feature, np.float32), allow_pickle=False)
        self.pending.append((str(self.count).encode(), msgpack.packb((image, buffer.getvalue(), int(label)))))
        self.count, self.next_source = self.count + 1, source + 1
        if len(self.pending) >= RECORDS_PER_TRANSACTION:
            self.flush()

    def flush(self):
        counts = [(b"__len__", msgpack.packb(self.count)), (NEXT_SOURCE, msgpack.packb(self.next_source))]
        self.lmdb.put([*self.pending, *counts, (SOURCE, self.fingerprint)])
        self.pending = []

    def close(self, class_count):
        keys = msgpack.packb([str(i).encode() for i in range(self.count)])
        self.flush()
        self.lmdb.put([(b"__keys__", keys), (b"__classnum__", msgpack.packb(class_count))])
        self.lmdb.close()
