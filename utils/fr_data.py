"""What a face recogniser is trained on: photos of people, mixtures of people, mixtures with real photos."""

import numpy as np
import torch
from torch.utils.data import Dataset

from utils.augmentation import augment_face, erase_rectangle
from utils.errors import UserError
from utils.images import SIDE

UNKNOWN_POSE = torch.full((2,), torch.nan)  # yaw and pitch
MIRRORED_POSE = torch.tensor([-1.0, 1.0])  # what mirroring a photo makes of them
NO_PHOTO = (torch.zeros(3, SIDE, SIDE), 0, 0, 1.0, UNKNOWN_POSE)


class RecognitionData(Dataset):
    """Item ``(epoch, index)`` -> image (3, 112, 112) in [-1, 1], two labels, share of the first, pose (2,), error.

    The share is 1 for a photo of one person. The pose is yaw and pitch in degrees, from ``poses`` (N, 2) of the photos
    of ``faces`` where they are known, else NaN. ``faces``: a FaceSet. ``mixed``: another one whose person k is a
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
            image, pose, first, second, share = self._photo(index, rng)
        except (ValueError, OSError) as error:
            return *NO_PHOTO, f"{self._name(index)}: {error}"
        if self.real is not None:
            share = float(rng.uniform(*self.domain_range))
            partner = int(rng.integers(len(self.real)))
            try:
                other, _ = self._augmented(self.real.image(partner), rng)
            except (ValueError, OSError) as error:
                return *NO_PHOTO, f"{self.real.name(partner)}: {error}"
            image = share * image + (1 - share) * other
            second = len(self.faces.people) + int(self.real.labels[partner])
        return image, first, second, share, pose, ""

    def _photo(self, index, rng):
        """(augmented photo, its pose, first and second label, share of the first)."""
        pose = UNKNOWN_POSE
        if index < len(self.faces):
            label = int(self.faces.labels[index])
            who, photo = (label, label, 1.0), self.faces.image(index)
            if self.poses is not None:
                pose = torch.tensor(self.poses[index], dtype=torch.float32)  # (2,)
        else:
            index -= len(self.faces)
            first, second, share = self.mixture_rows[self.mixed.labels[index]]
            who, photo = (int(first), int(second), float(share)), self.mixed.image(index)
        image, mirrored = self._augmented(photo, rng)
        return image, pose * MIRRORED_POSE if mirrored else pose, *who

    def _augmented(self, photo, rng):
        """(H, W, 3) uint8 -> (3, H, W) in [-1, 1] with all changes, and whether it was mirrored."""
        image, mirrored = augment_face(photo, rng, self.augmentation)
        image = torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1  # (H, W, 3) -> (3, H, W)
        return erase_rectangle(image, rng, self.erase), mirrored

    def _name(self, index):
        return self.faces.name(index) if index < len(self.faces) else self.mixed.name(index - len(self.faces))


def load_mixture_labels(path):
    """Rows a, b, share of a, (M, 3), as sample_identities.py --mixup writes them. Raises UserError for others."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not the labels of mixtures: {error}") from error
