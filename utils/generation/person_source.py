"""Identity vectors of people of whom there are several photos: FOLDER/person/photo."""

import hashlib
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from utils.data.slices import parse_slice
from utils.generation.photo_source import PhotoSource, different_names
from utils.generation.recipe import Identity


class PersonSource:
    """An identity for each folder that holds photos: the mean direction of their FR features, with their mean norm.

    An identity is called by its folder, and by the folders above where that repeats; ``start_end`` counts folders.
    Unreadable photos are listed in ``skipped`` and left out; a folder without a readable photo gives no identity.
    """

    def __init__(self, source, encoder, start_end=None, batch_size=2000, align=False, workers=None):
        self.photo_source = PhotoSource(source, encoder, None, batch_size, align, workers)
        self.photos, self.origin = self.photo_source.photos, self.photo_source.origin
        parents = [path.parent.absolute() for path in self.photos]
        folders = sorted(set(parents))
        self.names = dict(enumerate(different_names(folders, [folder.name for folder in folders])))
        number = {folder: row for row, folder in enumerate(folders)}
        self.identity_of = [number[parent] for parent in parents]  # of each photo
        self.slice = parse_slice(start_end, len(folders))

        self.note = f"{len(self.photos)} photos in {len(folders)} folders: each folder is one identity."

    @property
    def skipped(self):
        return self.photo_source.skipped

    @property
    def warnings(self):
        return self.photo_source.warnings

    @cached_property
    def fingerprint(self):
        """SHA-256 over the photos and whom they show."""
        people = "".join(f"{self.names[person]}\n" for person in self.identity_of)
        return hashlib.sha256(f"{self.photo_source.fingerprint}\n{people}".encode()).hexdigest()

    def identities(self, rows):
        """Iterate over the Identities of some folders."""
        rows = set(rows)
        photos = [photo for photo, person in enumerate(self.identity_of) if person in rows]
        features = self.photo_source.identities(sorted(photos, key=self.identity_of.__getitem__))
        for person, own in groupby(features, key=lambda photo: self.identity_of[photo.number]):
            name = self.names[person]
            yield Identity(person, name, mean_vector(np.stack([photo.vector for photo in own])), name)


def mean_vector(features: np.ndarray) -> np.ndarray:
    """Features (N, 512) -> the mean of their directions, scaled to their mean norm, (512,) float32."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)  # (N, 1)
    direction = (features / norms).mean(0)  # (512,)
    return (direction / np.linalg.norm(direction) * norms.mean()).astype(np.float32)


def people_warnings(source) -> list[str]:
    """A line when every photo becomes an identity of its own although the photos lie in folders of people."""
    if not isinstance(source, PhotoSource):
        return []
    folders = {path.parent for path in source.photos}
    if len(source.photos) == len(folders) or Path(source.source) in folders:
        return []
    return [
        f"{source.source} holds {len(source.photos)} photos in {len(folders)} folders, and each photo becomes an "
        "identity of its own. If a folder shows one person, give --per_person to make it one identity."
    ]
