"""The training data of a face recogniser: labelled photos, with identity mixup or domain mixup."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from models.errors import UserError
from models.pixels import to_images
from models.transfer import upload
from utils.data.augmentation import augment_face, draw_hole, erase
from utils.data.face_set import FaceSet
from utils.data.images import SIDE

UNKNOWN_POSE = torch.full((2,), torch.nan)  # yaw and pitch
MIRRORED_POSE = torch.tensor([-1.0, 1.0])  # factors of yaw and pitch when a photo is mirrored


class RecognitionItem(NamedTuple):
    """One training image before it is assembled, or, with a leading dimension B, a batch of them.

    A mixture has two parts, each with a label. In identity mixup the mixture is a generated image (K = 1); in domain
    mixup ``assemble`` blends it from two photos (K = 2). Without mixup K = 1 and both labels are that of the photo.
    """

    pixels: torch.Tensor  # (K, 112, 112, 3) uint8
    holes: torch.Tensor  # (K, 4), rectangles to erase, as (y, x, h, w)
    first: int  # label of the first part
    second: int  # label of the second part
    weight: float  # of the first part, 0 to 1; 1 if the image is no mixture
    pose: torch.Tensor  # (2,) yaw and pitch in degrees, NaN where unknown
    error: str  # why the photo is broken; empty if it is not


def assemble(pixels: torch.Tensor, holes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The images (B, 3, 112, 112) of ``pixels`` (B, K, 112, 112, 3), in [-1, 1], on their device, in channels_last.

    ``holes`` (B, K, 4) and ``weight`` (B,) float64 as in RecognitionItem. This runs on the device, because
    uint8 pixels are the smallest form in which an image can be sent there.
    """
    images = erase(to_images(pixels.flatten(0, 1)), holes.flatten(0, 1))  # (B K, 3, 112, 112)
    if pixels.shape[1] == 2:
        first, second = images.unflatten(0, (-1, 2)).unbind(1)  # (B, 3, 112, 112) each
        weight = weight[:, None, None, None]  # (B, 1, 1, 1)
        images = weight.float() * first + (1 - weight).float() * second  # (B, 3, 112, 112)
    return images.contiguous(memory_format=torch.channels_last)


class RecogniserInput(NamedTuple):
    """A batch as the recogniser's forward pass takes it, on the device."""

    images: torch.Tensor  # (B, 3, 112, 112) in [-1, 1]
    first: torch.Tensor  # (B,) labels
    second: torch.Tensor | None  # (B,) labels of the second parts; None in a batch without mixtures
    weight: torch.Tensor | None  # (B,) float32, of the first parts; None in a batch without mixtures
    poses: torch.Tensor  # (B, 2) yaw and pitch in degrees, NaN where unknown


def to_device(batch: RecognitionItem, device: torch.device, mixed: bool | None = None) -> RecogniserInput:
    """Upload a batch from the loader and assemble its images on the device.

    ``mixed``: whether to return the second parts; by default, if the batch has mixtures. That is decided here, on the
    host, so that the host need not wait for the device.
    """
    mixed = bool((batch.weight < 1).any()) if mixed is None else mixed
    pixels, holes, first, poses, weight = (
        upload(column, device) for column in (batch.pixels, batch.holes, batch.first, batch.pose, batch.weight)
    )
    second, weights = (upload(batch.second, device), weight.float()) if mixed else (None, None)
    return RecogniserInput(assemble(pixels, holes, weight), first, second, weights, poses)


class RecognitionData(Dataset):
    """The training set of a face recogniser: item ``(epoch, index)`` is a RecognitionItem.

    ``augmentation``: probability of each change of ``augment_face``. ``erase``: probability of erasing a rectangle.
    ``poses``: (N, 2), yaw and pitch in degrees of the photos of ``faces``, where they are known. Every draw comes from
    (seed, epoch, index). A broken photo becomes zeros with an error text.

    Both kinds of mixup are SynFace's (Qiu et al., 2021). Identity mixup: ``mixed`` is a FaceSet in which identity k is
    a mixture of two identities of ``faces``; row k of ``mixture_labels`` (M, 3) holds their labels and the weight of
    the first. Domain mixup: photos of the FaceSet ``real`` are blended in; the weight of the synthetic image is uniform
    in ``domain_range``, and the labels of real identities follow those of ``faces``. Raises UserError when the mixture
    labels do not fit.
    """

    def __init__(
        self,
        faces: FaceSet,
        seed: int = 0,
        augmentation: float = 0.0,
        erase: float = 0.0,
        mixed: FaceSet | None = None,
        mixture_labels: np.ndarray | None = None,
        real: FaceSet | None = None,
        domain_range: tuple[float, float] = (0.6, 1.0),
        poses: Sequence[tuple[float, float]] | None = None,
    ):
        self.faces, self.mixed, self.mixture_labels = faces, mixed, mixture_labels
        self.real, self.domain_range, self.poses = real, domain_range, poses
        self.seed, self.augmentation, self.erase = seed, augmentation, erase
        if mixed is not None:
            self._check_mixture()

    def _check_mixture(self) -> None:
        row_numbers = [int(name) if name.isdigit() else -1 for name in self.mixed.identities]
        rows = self.mixture_labels
        if rows.ndim != 2 or rows.shape[1] != 3 or max(row_numbers) >= len(rows) or min(row_numbers) < 0:
            raise UserError(
                f"{self.mixed.path}: its identities must be named by their row in --mixed_labels, 0 to {len(rows) - 1}."
            )
        if not (rows >= 0).all() or rows[:, :2].max() >= len(self.faces.identities) or rows[:, 2].max() > 1:
            raise UserError(
                "--mixed_labels: rows must be (label a, label b, weight of a), with weights from 0 to 1 and labels "
                f"from 0 to {len(self.faces.identities) - 1}."
            )
        self.mixture_rows = rows[row_numbers]  # (identities of ``mixed``, 3)

    @property
    def class_count(self) -> int:
        """Number of identities, including those of ``real``."""
        return len(self.faces.identities) + (0 if self.real is None else len(self.real.identities))

    @property
    def has_mixtures(self) -> bool:
        """Whether some of the items are mixtures."""
        return self.mixed is not None or self.real is not None

    def records(self) -> list[np.ndarray]:
        """Arrays that identify the photos in use and their labels."""
        sets = [faces for faces in (self.faces, self.mixed, self.real) if faces]
        return [array for faces in sets for array in (faces.positions, faces.labels)]

    def __len__(self) -> int:
        return len(self.faces) + (0 if self.mixed is None else len(self.mixed))

    def __getitem__(self, item: tuple[int, int]) -> RecognitionItem:
        epoch, index = item
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index)))
        try:
            photo, pose, first, second, weight = self._photo(index)
            image, hole, mirrored = self._augmented(photo, rng)
        except (ValueError, OSError) as error:
            return self._broken(f"{self._name(index)}: {error}")
        images, holes = [image], [hole]
        if self.real is not None:
            weight = float(rng.uniform(*self.domain_range))
            partner = int(rng.integers(len(self.real)))
            try:
                image, hole, _ = self._augmented(self.real.image(partner), rng)
            except (ValueError, OSError) as error:
                return self._broken(f"{self.real.name(partner)}: {error}")
            images.append(image)
            holes.append(hole)
            second = len(self.faces.identities) + int(self.real.labels[partner])
        pose = pose * MIRRORED_POSE if mirrored else pose
        return RecognitionItem(torch.from_numpy(np.stack(images)), torch.tensor(holes), first, second, weight, pose, "")

    def _photo(self, index):
        """(photo (112, 112, 3) uint8, pose (2,) in degrees, first label, second label, weight of the first)."""
        if index < len(self.faces):
            label = int(self.faces.labels[index])
            pose = UNKNOWN_POSE if self.poses is None else torch.tensor(self.poses[index], dtype=torch.float32)  # (2,)
            return self.faces.image(index), pose, label, label, 1.0
        index -= len(self.faces)
        first, second, weight = self.mixture_rows[self.mixed.labels[index]]
        return self.mixed.image(index), UNKNOWN_POSE, int(first), int(second), float(weight)

    def _augmented(self, photo, rng):
        """(augmented photo (112, 112, 3), not erased yet; rectangle (y, x, h, w) to erase; whether it was mirrored)."""
        image, mirrored = augment_face(photo, rng, self.augmentation)
        return image, draw_hole(rng, self.erase, SIDE, SIDE), mirrored

    def _broken(self, error):
        count = 1 if self.real is None else 2
        pixels = torch.zeros(count, SIDE, SIDE, 3, dtype=torch.uint8)
        return RecognitionItem(pixels, torch.zeros(count, 4, dtype=torch.long), 0, 0, 1.0, UNKNOWN_POSE, error)

    def _name(self, index):
        return self.faces.name(index) if index < len(self.faces) else self.mixed.name(index - len(self.faces))


class LabelledPhoto(NamedTuple):
    """A photo with its label, or, with a leading dimension B, a batch of them."""

    pixels: torch.Tensor  # (112, 112, 3) uint8
    label: int
    error: str  # why the photo is broken; empty if it is not


class FirstPhotos(Dataset):
    """The first ``per_identity`` photos of every identity of a FaceSet; items are LabelledPhotos.

    ``identities``: the labels to take, by default all.
    """

    def __init__(self, faces: FaceSet, per_identity: int, identities: range | None = None):
        self.faces = faces
        order = np.argsort(faces.labels, kind="stable")
        if identities is not None:
            sorted_labels = faces.labels[order]
            order = order[(sorted_labels >= identities.start) & (sorted_labels < identities.stop)]
        labels = faces.labels[order]
        rank = np.arange(len(labels)) - np.searchsorted(labels, labels)  # (N,) of each photo within its identity
        self.photos, self.labels = order[rank < per_identity], labels[rank < per_identity]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, item: int) -> LabelledPhoto:
        index, label = int(self.photos[item]), int(self.labels[item])
        try:
            return LabelledPhoto(torch.from_numpy(self.faces.image(index)), label, "")
        except (ValueError, OSError) as error:
            return LabelledPhoto(torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8), label, str(error))
