"""Where identities come from: a file of vectors, or photos."""

import hashlib
from collections import Counter
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils import heic
from utils.checkpoint import sha256
from utils.cli import parse_slice
from utils.errors import UserError
from utils.generation import Identity
from utils.images import FaceAligner, decode_image, files_left_out, list_images, name_in, resize
from utils.photo_loader import Unreadable, read_ahead
from utils.photo_sizes import unaligned_photos

CHECKED_ROWS = 8192
CPU_FEATURE_BATCH = 16


class VectorSource:
    """Identity vectors from an ``.npy`` of (K, 512) floats; identity k is called by its six-digit number.

    ``usual_norm``: of the vectors the generator was trained on, where that is known; others are warned about.
    Raises UserError when the file is missing, damaged, of another shape or type, or has a row that is not a direction.
    """

    def __init__(self, path, start_end=None, start_class_id=0, width=512, usual_norm=None):
        self.vectors = load_vectors(path, width)
        self.slice = parse_slice(start_end, len(self.vectors))
        self.first = start_class_id
        self.names = {row: f"{row + start_class_id:06d}" for row in self.slice}
        self.fingerprint = sha256(path)
        self.warnings, self.skipped, self.note = [], [], None
        norm = float(np.median(np.linalg.norm(self.vectors[self.slice.start : self.slice.start + 1000], axis=1)))
        if usual_norm and not 0.5 < norm / usual_norm < 2:
            self.warnings.append(
                f"{path}: the vectors have norm {norm:.2f}; the generator was trained on norms about {usual_norm:.1f}."
            )
        elif norm < 2:
            self.warnings.append(
                f"{path}: the vectors have norm {norm:.2f}; the generator expects unnormalised features, norm about 20."
            )

    def identities(self, rows):
        """Iterate over the Identities of some rows."""
        for row in rows:
            yield Identity(row + self.first, self.names[row], np.array(self.vectors[row], np.float32))


def load_vectors(path, width):
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of identity vectors.")
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        what = "holds Python objects" if "Python objects in dtype" in str(error) else "truncated, or not an .npy file"
        raise UserError(
            f"{path}: {what}; it needs to be a NumPy array of floats, (number of identities, {width})."
        ) from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape[1] != width or len(vectors) == 0:
        shape = getattr(vectors, "shape", "an archive")
        raise UserError(f"{path}: has shape {shape}; identity vectors have shape (number of identities, {width}).")
    if not np.issubdtype(vectors.dtype, np.floating):
        raise UserError(f"{path}: holds {vectors.dtype} numbers; identity vectors are floats.")
    for start in range(0, len(vectors), CHECKED_ROWS):
        block = np.asarray(vectors[start : start + CHECKED_ROWS], np.float64)
        norms = np.linalg.norm(block, axis=1)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if bad.size:
            what = "all zero" if norms[bad[0]] == 0 else "NaN or infinite"
            raise UserError(f"{path}: row {start + bad[0]} is {what}; remove such rows and try again.")
    return vectors


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
        self.source, self.photos = source, list_images(source)
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
