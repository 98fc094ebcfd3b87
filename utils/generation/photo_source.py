"""Where identities come from: a file of vectors, or photos."""

import hashlib
from collections import Counter
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from models.weight_files import sha256
from utils.data import heic
from utils.data.alignment import FaceAligner
from utils.data.images import decode_image, files_left_out, list_images, name_in, resize
from utils.data.photo_loader import Unreadable, read_ahead
from utils.data.photo_sizes import unaligned_photos
from utils.data.slices import parse_slice
from utils.generation.recipe import Identity

CPU_FEATURE_BATCH = 16


class Crop(NamedTuple):
    """A photo as the encoder gets it, (112, 112, 3) uint8 RGB, and the file's bytes where they can stand for it."""

    image: np.ndarray
    encoded: bytes | None


class CropReader(NamedTuple):
    """Path -> Crop, with the face found and aligned where there is an aligner."""

    aligner: FaceAligner | None = None

    def __call__(self, path: Path) -> Crop:
        """Raises ValueError or OSError when the photo cannot be used."""
        data = path.read_bytes()
        photo = decode_image(data)
        image = resize(photo if self.aligner is None else self.aligner(photo))
        intact = image is photo and not heic.is_heic(data)  # other readers of a dataset know no HEIC
        return Crop(image, data if intact else None)


class PhotoSource:
    """Identity vectors from photos: the FR feature of each. Unreadable photos are listed in ``skipped`` and left out.

    A photo is called by its stem, with its folder's name in front where stems repeat. ``workers``: processes that read
    and align photos, as in ``read_ahead``.
    """

    def __init__(self, source, encoder, start_end=None, batch_size=2000, align=False, workers=None):
        self.source, self.origin, self.photos = source, str(source), list_images(source)
        self.slice = parse_slice(start_end, len(self.photos))
        self.encoder, self.batch_size, self.workers = encoder, batch_size, workers
        self.read = CropReader(FaceAligner() if align else None)
        self.names = dict(enumerate(photo_names(self.photos)))
        self.skipped = []
        self.note = f"{len(self.photos)} photos: each is an identity of its own."

    @cached_property
    def warnings(self):
        """Lines on files that are no photos, and on photos that are no aligned crops; reads the header of each."""
        return files_left_out(self.source) + ([] if self.read.aligner else unaligned_photos(self.photos))

    @cached_property
    def fingerprint(self):
        """SHA-256 over names and contents of all photos."""
        digest = hashlib.sha256()
        for row, path in enumerate(self.photos):
            digest.update(f"{self.names[row]} {sha256(path) if path.is_file() else 'missing'}\n".encode())
        return digest.hexdigest()

    def identities(self, rows):
        """Iterate over the Identities of some photos."""
        return (identity for identity, _ in self.with_crops(rows))

    def with_crops(self, rows):
        """Iterate over (Identity, Crop) of some photos, features taken in batches of constant size."""
        on_cpu = next(self.encoder.parameters()).device.type == "cpu"
        size = min(self.batch_size, CPU_FEATURE_BATCH) if on_cpu else self.batch_size  # a CPU gains nothing from more
        readable = self._readable(list(rows), size)
        while batch := list(islice(readable, size)):
            features = self._features([crop.image for _, crop in batch], size)
            for (row, crop), feature in zip(batch, features, strict=False):
                yield Identity(row, self.names[row], feature, name_in(self.source, self.photos[row])), crop

    def _readable(self, rows, ahead):
        photos = read_ahead(self.read, [self.photos[row] for row in rows], self.workers, ahead)
        for row, (path, crop) in zip(rows, photos, strict=True):
            if isinstance(crop, Unreadable):
                self.skipped.append(f"{path}: {crop.reason}")
            else:
                yield row, crop

    @torch.inference_mode()
    def _features(self, images, size):
        batch = np.zeros((size, *images[0].shape), np.uint8)
        batch[: len(images)] = images
        device = next(self.encoder.parameters()).device
        images = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)  # (N, 112, 112, 3) -> (N, 3, 112, 112)
        return self.encoder(images.float() / 127.5 - 1).cpu().numpy()  # (N, 512)


def photo_names(paths):
    """A different name for every photo: its stem; folder and stem, or more folders, where that repeats."""
    return different_names(paths, [path.stem for path in paths])


def different_names(paths, last):
    """``last``: what to call each path where that is different already, else the names of its folders go in front."""
    names = list(last)
    for depth in range(2, 1 + max(len(path.parts) for path in paths)):
        repeated = {name for name, count in Counter(names).items() if count > 1}
        if not repeated:
            break
        names = [
            "_".join((*path.parts[-depth:-1], end)).strip("/") if name in repeated else name
            for name, path, end in zip(names, paths, last, strict=True)
        ]
    taken = set()
    for i in range(len(names)):  # still equal: a.jpg and a.png in one folder
        while names[i] in taken:
            names[i] += "_"
        taken.add(names[i])
    return names
