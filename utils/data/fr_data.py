"""What a face recogniser is trained on: photos of people, mixtures of people, mixtures with real photos."""

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from models.errors import UserError
from models.pixels import to_images
from utils.data.augmentation import augment_face, draw_hole, erase
from utils.data.images import SIDE

UNKNOWN_POSE = torch.full((2,), torch.nan)  # yaw and pitch
MIRRORED_POSE = torch.tensor([-1.0, 1.0])  # what mirroring a photo makes of them


class Item(NamedTuple):
    """One image to train on, or a batch of them, as it comes from the workers; ``assemble`` makes the image."""

    pixels: torch.Tensor  # (K, 112, 112, 3) uint8: the photo; in domain mixup K = 2, the photo and the one blended in
    holes: torch.Tensor  # (K, 4): the rectangle erased in each
    first: int  # label
    second: int  # label of the other part of a mixture
    share: float  # of the first; 1 for a photo of one person
    pose: torch.Tensor  # (2,)
    error: str


def assemble(pixels, holes, share):
    """The images (B, 3, 112, 112) of a batch of ``pixels`` (B, K, 112, 112, 3), on its device and in channels_last.

    ``holes`` (B, K, 4), ``share`` (B,) float64. That is done on the device as the pixels are the least to send there.
    """
    images = erase(to_images(pixels.flatten(0, 1)), holes.flatten(0, 1))  # (B K, 3, 112, 112)
    if pixels.shape[1] == 2:
        first, second = images.unflatten(0, (-1, 2)).unbind(1)  # (B, 3, 112, 112) each
        share = share[:, None, None, None]  # (B, 1, 1, 1)
        images = share.float() * first + (1 - share).float() * second
    return images.contiguous(memory_format=torch.channels_last)


class RecognitionData(Dataset):
    """Item ``(epoch, index)`` -> Item.

    The pose is yaw and pitch in degrees, from ``poses`` (N, 2) of the photos of ``faces`` where they are known, else
    NaN. ``faces``: a FaceSet. ``mixed``: another one whose person k is a
    mixture, row k of ``mixture_labels`` (M, 3) says of whom: a, b, share of a (identity mixup). ``real``: a FaceSet
    whose photos are blended in, with the share of the first image from ``domain_range`` (domain mixup); its people
    are numbered after those of ``faces``. Both are SynFace's (Qiu et al., 2021). ``augmentation``: probability of each
    change, ``erase``: of erasing. Every draw comes from (seed, epoch, index). A broken photo gives an error text.
    """

    def __init__(
        self, faces, seed=0, augmentation=0.0, erase=0.0, mixed=None, mixture_labels=None, real=None,
        domain_range=(0.6, 1.0), poses=None,
    ):  # fmt: skip
        self.faces, self.mixed, self.mixture_labels = faces, mixed, mixture_labels
        self.real, self.domain_range, self.poses = real, domain_range, poses
        self.seed, self.augmentation, self.erase = seed, augmentation, erase
        if mixed is not None:
            self._check_mixture()

    def _check_mixture(self):
        people = [int(name) if name.isdigit() else -1 for name in self.mixed.people]
        rows = self.mixture_labels
        if rows.ndim != 2 or rows.shape[1] != 3 or max(people) >= len(rows) or min(people) < 0:
            raise UserError(
                f"{self.mixed.path}: its people must be called by their row in --mixed_labels, 0 to {len(rows) - 1}."
            )
        if not (rows >= 0).all() or rows[:, :2].max() >= len(self.faces.people) or rows[:, 2].max() > 1:
            raise UserError(f"--mixed_labels: rows are a, b, share of a; people go to {len(self.faces.people) - 1}.")
        self.mixture_rows = rows[people]

    @property
    def class_count(self):
        return len(self.faces.people) + (0 if self.real is None else len(self.real.people))

    def __len__(self):
        return len(self.faces) + (0 if self.mixed is None else len(self.mixed))

    def __getitem__(self, item):
        epoch, index = item
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index)))
        try:
            photo, pose, first, second, share = self._photo(index)
            image, hole, mirrored = self._augmented(photo, rng)
        except (ValueError, OSError) as error:
            return self._broken(f"{self._name(index)}: {error}")
        images, holes = [image], [hole]
        if self.real is not None:
            share = float(rng.uniform(*self.domain_range))
            partner = int(rng.integers(len(self.real)))
            try:
                image, hole, _ = self._augmented(self.real.image(partner), rng)
            except (ValueError, OSError) as error:
                return self._broken(f"{self.real.name(partner)}: {error}")
            images.append(image)
            holes.append(hole)
            second = len(self.faces.people) + int(self.real.labels[partner])
        pose = pose * MIRRORED_POSE if mirrored else pose
        return Item(torch.from_numpy(np.stack(images)), torch.tensor(holes), first, second, share, pose, "")

    def _photo(self, index):
        """(photo (112, 112, 3) uint8, its pose, first and second label, share of the first)."""
        if index < len(self.faces):
            label = int(self.faces.labels[index])
            pose = UNKNOWN_POSE if self.poses is None else torch.tensor(self.poses[index], dtype=torch.float32)  # (2,)
            return self.faces.image(index), pose, label, label, 1.0
        index -= len(self.faces)
        first, second, share = self.mixture_rows[self.mixed.labels[index]]
        return self.mixed.image(index), UNKNOWN_POSE, int(first), int(second), float(share)

    def _augmented(self, photo, rng):
        """The photo (112, 112, 3) with all changes but erasing, the hole to erase, and whether it was mirrored."""
        image, mirrored = augment_face(photo, rng, self.augmentation)
        return image, draw_hole(rng, self.erase, SIDE, SIDE), mirrored

    def _broken(self, error):
        count = 1 if self.real is None else 2
        pixels = torch.zeros(count, SIDE, SIDE, 3, dtype=torch.uint8)
        return Item(pixels, torch.zeros(count, 4, dtype=torch.long), 0, 0, 1.0, UNKNOWN_POSE, error)

    def _name(self, index):
        return self.faces.name(index) if index < len(self.faces) else self.mixed.name(index - len(self.faces))


class PhotosOfPeople(Dataset):
    """The first few photos of every person of a FaceSet. Item -> pixels (112, 112, 3) uint8, label, error."""

    def __init__(self, faces, per_person):
        self.faces = faces
        order = np.argsort(faces.labels, kind="stable")
        labels = faces.labels[order]
        rank = np.arange(len(labels)) - np.searchsorted(labels, labels)  # of each photo among those of its person
        self.photos, self.labels = order[rank < per_person], labels[rank < per_person]

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, item):
        index = int(self.photos[item])
        try:
            return torch.from_numpy(self.faces.image(index)), int(self.labels[item]), ""
        except (ValueError, OSError) as error:
            return torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8), int(self.labels[item]), str(error)


def load_mixture_labels(path):
    """Rows a, b, share of a, (M, 3), as sample_identities.py --mixup writes them. Raises UserError for others."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not the labels of mixtures: {error}") from error
