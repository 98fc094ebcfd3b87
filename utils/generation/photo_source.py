"""Identity vectors from photos, one identity per photo."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from models.weight_files import sha256
from utils.data import heic
from utils.data.alignment import FaceAligner
from utils.data.images import decode_image, files_left_out, list_images, name_in, resize
from utils.data.photo_loader import Unreadable, read_ahead
from utils.data.photo_sizes import unaligned_photos
from utils.data.slices import parse_slice
from utils.generation.recipe import Identity

CPU_FEATURE_BATCH = 16  # photos; larger batches are not faster on a CPU


class Crop(NamedTuple):
    """The encoder's input, (112, 112, 3) uint8 RGB, and the bytes of the file if they encode exactly this image."""

    image: np.ndarray
    encoded: bytes | None


class CropReader(NamedTuple):
    """Reads a path as a Crop, aligned to the face if there is an ``aligner``."""

    aligner: FaceAligner | None = None

    def __call__(self, path: Path) -> Crop:
        """Raises ValueError or OSError when the photo cannot be used."""
        return self.crop(path.read_bytes())

    def crop(self, data: bytes) -> Crop:
        """The Crop of an encoded photo. Raises ValueError when it cannot be used."""
        photo = decode_image(data)
        image = resize(photo if self.aligner is None else self.aligner(photo))
        intact = image is photo and not heic.is_heic(data)  # other readers of a dataset know no HEIC
        return Crop(image, data if intact else None)


class PhotoSource:
    """One identity per photo: the FR feature of the photo. Unreadable photos are listed in ``skipped`` and left out.

    ``source``: a folder, a ``.txt`` list or one photo; ``start_end``: FIRST:END of the photos, None for all;
    ``batch_size``: photos per forward pass of the ``encoder`` on a GPU; ``align``: whether to detect and align the face
    first; ``workers``: processes that read photos, see ``read_ahead``. A photo is named after its file, with folders in
    front if names repeat. Raises UserError when there are no photos or the slice is wrong.
    """

    def __init__(
        self, source: Path | str, encoder: nn.Module, start_end: str | None = None, batch_size: int = 2000,
        align: bool = False, workers: int | None = None,
    ):  # fmt: skip
        self.source, self.origin, self.photos = source, str(source), list_images(source)
        self.slice = parse_slice(start_end, len(self.photos))
        self.encoder, self.batch_size, self.workers = encoder, batch_size, workers
        self.read = CropReader(FaceAligner() if align else None)
        self.names = dict(enumerate(photo_names(self.photos)))
        self.skipped: list[str] = []
        self.note = f"{len(self.photos)} photos: each is an identity of its own."

    @cached_property
    def warnings(self) -> list[str]:
        """Lines for the user on files that are not photos, and photos that are not aligned crops by their headers."""
        return files_left_out(self.source) + ([] if self.read.aligner else unaligned_photos(self.photos))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of all photos."""
        digest = hashlib.sha256()
        for row, path in enumerate(self.photos):
            digest.update(f"{self.names[row]} {sha256(path) if path.is_file() else 'missing'}\n".encode())
        return digest.hexdigest()

    def identities(self, rows: Iterable[int]) -> Iterator[Identity]:
        """Iterate over the identities of some photos."""
        return (identity for identity, _ in self.with_crops(rows))

    def everyone(self) -> tuple[list[int], np.ndarray]:
        """(photos, vectors (K, 512)) of all readable photos, also of those outside the slice."""
        return everyone_of(self.identities, len(self.photos), self.skipped)

    def with_crops(self, rows: Iterable[int]) -> Iterator[tuple[Identity, Crop]]:
        """Iterate over (Identity, Crop) of some photos; features are computed in batches padded to a constant size."""
        size = feature_rows(self.encoder, self.batch_size)
        readable = self._readable(list(rows), size)
        while batch := list(islice(readable, size)):
            features = features_of([crop.image for _, crop in batch], self.encoder, size)
            for (row, crop), feature in zip(batch, features, strict=False):
                yield Identity(row, self.names[row], feature, name_in(self.source, self.photos[row])), crop

    def _readable(self, rows: list[int], ahead: int) -> Iterator[tuple[int, Crop]]:
        photos = read_ahead(self.read, [self.photos[row] for row in rows], self.workers, ahead)
        for row, (path, crop) in zip(rows, photos, strict=True):
            if isinstance(crop, Unreadable):
                self.skipped.append(f"{path}: {crop.reason}")
            else:
                yield row, crop


def feature_rows(encoder: nn.Module, batch_size: int) -> int:
    """Number of photos per forward pass of the ``encoder``, on a CPU a small one."""
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    return min(batch_size, CPU_FEATURE_BATCH) if on_cpu else batch_size


@torch.inference_mode()
def features_of(images: list[np.ndarray], encoder: nn.Module, size: int) -> np.ndarray:
    """Up to ``size`` images (112, 112, 3) uint8 -> features (size, 512); rows beyond the images are padding."""
    batch = np.zeros((size, *images[0].shape), np.uint8)
    batch[: len(images)] = images
    device = next(encoder.parameters()).device
    images = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)  # (N, 112, 112, 3) -> (N, 3, 112, 112)
    return encoder(images.float() / 127.5 - 1).cpu().numpy()  # (N, 512)


def everyone_of(
    identities: Callable[[range], Iterator[Identity]], count: int, skipped: list[str]
) -> tuple[list[int], np.ndarray]:
    """(rows, vectors (K, 512)) of all identities of a source of ``count`` rows; its ``skipped`` stays as it was."""
    told = len(skipped)
    everyone = list(identities(range(count)))
    del skipped[told:]
    vectors = [identity.vector for identity in everyone]
    return [identity.number for identity in everyone], np.reshape(vectors, (len(everyone), -1))  # (K, 512)


def photo_names(paths: Sequence[Path]) -> list[str]:
    """A unique name for every photo: its stem, with folders in front if stems repeat."""
    return different_names(paths, [path.stem for path in paths])


def different_names(paths: Sequence[Path], last: Sequence[str]) -> list[str]:
    """A unique name for every path: its entry in ``last``, with the names of parent folders in front if it repeats."""
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
    for i in range(len(names)):  # still not unique: a.jpg and a.png in one folder
        while names[i] in taken:
            names[i] += "_"
        taken.add(names[i])
    return names
