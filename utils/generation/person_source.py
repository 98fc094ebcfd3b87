"""Identity vectors from several photos per identity: FOLDER/identity/photo."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from torch import nn

from utils.data.slices import parse_slice
from utils.generation.photo_source import PhotoSource, different_names, everyone_of
from utils.generation.recipe import Identity


class PersonSource:
    """One identity per folder of photos: the mean direction of their FR features, scaled to their mean norm.

    An identity is named after its folder, with parent folders in front if names repeat. ``start_end`` counts folders;
    other parameters are those of PhotoSource.
    Unreadable photos are listed in ``skipped`` and left out; a folder without a readable photo gives no identity.
    """

    def __init__(
        self, source: Path | str, encoder: nn.Module, start_end: str | None = None, batch_size: int = 2000,
        align: bool = False, workers: int | None = None,
    ):  # fmt: skip
        self.photo_source = PhotoSource(source, encoder, None, batch_size, align, workers)
        self.photos, self.origin = self.photo_source.photos, self.photo_source.origin
        parents = [path.parent.absolute() for path in self.photos]
        folders = sorted(set(parents))
        self.names = dict(enumerate(different_names(folders, [folder.name for folder in folders])))
        number = {folder: row for row, folder in enumerate(folders)}
        self.identity_of = [number[parent] for parent in parents]  # row of the identity of each photo
        self.slice = parse_slice(start_end, len(folders))

        self.note = f"{len(self.photos)} photos in {len(folders)} folders: each folder is one identity."

    @property
    def skipped(self) -> list[str]:
        """Lines on photos that could not be used."""
        return self.photo_source.skipped

    @property
    def warnings(self) -> list[str]:
        """Lines for the user on unsuitable files."""
        return self.photo_source.warnings

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the photos and their identities."""
        identities = "".join(f"{self.names[identity]}\n" for identity in self.identity_of)
        return hashlib.sha256(f"{self.photo_source.fingerprint}\n{identities}".encode()).hexdigest()

    def identities(self, rows: Iterable[int]) -> Iterator[Identity]:
        """Iterate over the identities of some folders. Folders without a usable photo are left out."""
        rows = set(rows)
        photos = [photo for photo, identity in enumerate(self.identity_of) if identity in rows]
        features = self.photo_source.identities(sorted(photos, key=self.identity_of.__getitem__))
        for identity, group in groupby(features, key=lambda photo: self.identity_of[photo.number]):
            name = self.names[identity]
            yield Identity(identity, name, mean_vector(np.stack([photo.vector for photo in group])), name)

    def everyone(self) -> tuple[list[int], np.ndarray]:
        """(folders, vectors (K, 512)) of all identities with a readable photo, also of those outside the slice."""
        return everyone_of(self.identities, len(self.names), self.skipped)


def mean_vector(features: np.ndarray) -> np.ndarray:
    """Features f_i (N, 512) -> (512,) float32: the mean of f_i / |f_i|, rescaled to the mean of |f_i|."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)  # (N, 1)
    direction = (features / norms).mean(0)  # (512,)
    return (direction / np.linalg.norm(direction) * norms.mean()).astype(np.float32)


def people_warnings(source: object) -> list[str]:
    """A line for the user if each photo becomes an identity although the photos are in a folder per identity."""
    if not isinstance(source, PhotoSource):
        return []
    folders = {path.parent for path in source.photos}
    if len(source.photos) == len(folders) or Path(source.source) in folders:
        return []
    return [
        f"{source.source} holds {len(source.photos)} photos in {len(folders)} folders, and each photo becomes an "
        "identity of its own. If a folder shows one person, give --per_person to make it one identity."
    ]
