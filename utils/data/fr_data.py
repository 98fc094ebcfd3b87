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
from utils.data.mixup import DIGITS, Shares

UNKNOWN_POSE = torch.full((2,), torch.nan)  # yaw and pitch
PSI = Shares(0.6, 1.0, 0)  # share of the synthetic image in domain mixup
MIRRORED_POSE = torch.tensor([-1.0, 1.0])  # factors of yaw and pitch when a photo is mirrored


class RecognitionItem(NamedTuple):
    """One training image before it is assembled, or, with a leading dimension B, a batch of them.

    In identity mixup the image shows two identities. In domain mixup (K = 2, otherwise 1) ``assemble`` blends it with a
    real photo of a third one. Labels that have no share are those of the first identity.
    """

    pixels: torch.Tensor  # (K, 112, 112, 3) uint8
    holes: torch.Tensor  # (K, 4), rectangles to erase, as (y, x, h, w)
    labels: torch.Tensor  # (3,) of the image's first and second identity, and of the real photo
    phi: float  # share of the first identity in the image, 0 to 1; 1 without identity mixup
    psi: float  # share of the image in a blend with the real photo, 0 to 1; 1 without domain mixup
    pose: torch.Tensor  # (2,) yaw and pitch in degrees, NaN where unknown
    error: str  # why the photo is broken; empty if it is not


def assemble(pixels: torch.Tensor, holes: torch.Tensor, psi: torch.Tensor) -> torch.Tensor:
    """The images (B, 3, 112, 112) of ``pixels`` (B, K, 112, 112, 3), in [-1, 1], on their device, in channels_last.

    ``holes`` (B, K, 4) and ``psi`` (B,) float64 as in RecognitionItem. This runs on the device, because
    uint8 pixels are the smallest form in which an image can be sent there.
    """
    images = erase(to_images(pixels.flatten(0, 1)), holes.flatten(0, 1))  # (B K, 3, 112, 112)
    if pixels.shape[1] == 2:
        image, real = images.unflatten(0, (-1, 2)).unbind(1)  # (B, 3, 112, 112) each
        psi = psi[:, None, None, None]  # (B, 1, 1, 1)
        images = psi.float() * image + (1 - psi).float() * real  # (B, 3, 112, 112)
    return images.contiguous(memory_format=torch.channels_last)


class RecogniserInput(NamedTuple):
    """A batch as the recogniser's forward pass takes it, on the device."""

    images: torch.Tensor  # (B, 3, 112, 112) in [-1, 1]
    labels: torch.Tensor  # (B,); in a batch with mixtures (B, P), of the P labels that have a share in any of them
    shares: torch.Tensor | None  # (B, P) float32, of the labels, with sums of 1; None in a batch without mixtures
    poses: torch.Tensor  # (B, 2) yaw and pitch in degrees, NaN where unknown


def to_device(batch: RecognitionItem, device: torch.device, parts: Sequence[int] | None = None) -> RecogniserInput:
    """Upload a batch from the loader and assemble its images on the device.

    ``parts``: the labels to return, 0 to 2; by default those that have a share in any image. That is decided here, on
    the host, so that the host need not wait for the device.
    """
    mixed, blended = bool((batch.phi < 1).any()), bool((batch.psi < 1).any())
    used = [0, *([1] if mixed else []), *([2] if blended else [])] if parts is None else list(parts)
    pixels, holes, labels, poses, phi, psi = (
        upload(column, device) for column in (batch.pixels, batch.holes, batch.labels, batch.pose, batch.phi, batch.psi)
    )
    images = assemble(pixels, holes, psi)
    if used == [0]:
        return RecogniserInput(images, labels[:, 0], None, poses)
    shares = (psi * phi, psi * (1 - phi), 1 - psi)  # (B,) each
    labels, shares = (
        torch.stack([columns[part] for part in used], 1) for columns in (labels.unbind(1), shares)
    )  # (B, P) each
    return RecogniserInput(images, labels, shares.float(), poses)


class RecognitionData(Dataset):
    """The training set of a face recogniser: item ``(epoch, index)`` is a RecognitionItem.

    ``augmentation``: probability of each change of ``augment_face``. ``erase``: probability of erasing a rectangle.
    ``poses``: (N, 2), yaw and pitch in degrees of the photos of ``faces``, where they are known. Every draw comes from
    (seed, epoch, index). A broken photo becomes zeros with an error text.

    Both kinds of mixup are SynFace's (Qiu et al., 2021), and go together. Identity mixup: ``faces`` has soft labels.
    Or ``mixed`` is a FaceSet in which identity k is a mixture of two identities of ``faces``; row k of
    ``mixture_labels`` (M, 3) holds their labels and the share of the first. Domain mixup: a random photo of the FaceSet
    ``real`` is blended into every image, whose share has the distribution ``psi``; the labels of real identities follow
    those of ``faces``. Raises UserError when the mixture labels do not fit.
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
        psi: Shares = PSI,
        poses: Sequence[tuple[float, float]] | None = None,
    ):
        self.faces, self.mixed, self.mixture_labels = faces, mixed, mixture_labels
        self.real, self.psi, self.poses = real, psi, poses
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
    def parts(self) -> list[int]:
        """The labels of an item that may have a share: the first one, and with mixtures the others."""
        mixed = self.faces.soft is not None or self.mixed is not None
        return [0, *([1] if mixed else []), *([2] if self.real is not None else [])]

    def psi_of_batch(self, rank: int, step: int) -> float:
        """The share of the images that a process blends in a step, for batches that have one share in common.

        It is 1 without domain mixup.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(1, rank, step)))
        return 1.0 if self.real is None else self.psi.draw(rng)

    def records(self) -> list[np.ndarray]:
        """Arrays that identify the photos in use and their labels."""
        sets = [faces for faces in (self.faces, self.mixed, self.real) if faces]
        soft = self.faces.soft
        mixtures = [] if soft is None else [soft.second, np.rint(soft.phi * 10**DIGITS)]
        return [array for faces in sets for array in (faces.positions, faces.labels)] + mixtures

    def __len__(self) -> int:
        return len(self.faces) + (0 if self.mixed is None else len(self.mixed))

    def __getitem__(self, item: tuple[int, int]) -> RecognitionItem:
        epoch, index = item
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index)))
        try:
            photo, pose, first, second, phi = self._photo(index)
            image, hole, mirrored = self._augmented(photo, rng)
        except (ValueError, OSError) as error:
            return self._broken(f"{self._name(index)}: {error}")
        images, holes, real, psi = [image], [hole], first, 1.0
        if self.real is not None:
            psi = self.psi.draw(rng)
            partner = int(rng.integers(len(self.real)))
            try:
                image, hole, _ = self._augmented(self.real.image(partner), rng)
            except (ValueError, OSError) as error:
                return self._broken(f"{self.real.name(partner)}: {error}")
            images.append(image)
            holes.append(hole)
            real = len(self.faces.identities) + int(self.real.labels[partner])
        pose = pose * MIRRORED_POSE if mirrored else pose
        pixels, labels = torch.from_numpy(np.stack(images)), torch.tensor([first, second, real])
        return RecognitionItem(pixels, torch.tensor(holes), labels, phi, psi, pose, "")

    def _photo(self, index):
        """(photo (112, 112, 3) uint8, pose (2,) in degrees, first label, second label, share of the first)."""
        if index < len(self.faces):
            label = int(self.faces.labels[index])
            pose = UNKNOWN_POSE if self.poses is None else torch.tensor(self.poses[index], dtype=torch.float32)  # (2,)
            soft = self.faces.soft
            second, phi = (label, 1.0) if soft is None else (int(soft.second[index]), float(soft.phi[index]))
            return self.faces.image(index), pose, label, second, phi
        index -= len(self.faces)
        first, second, phi = self.mixture_rows[self.mixed.labels[index]]
        return self.mixed.image(index), UNKNOWN_POSE, int(first), int(second), float(phi)

    def _augmented(self, photo, rng):
        """(augmented photo (112, 112, 3), not erased yet; rectangle (y, x, h, w) to erase; whether it was mirrored)."""
        image, mirrored = augment_face(photo, rng, self.augmentation)
        return image, draw_hole(rng, self.erase, SIDE, SIDE), mirrored

    def _broken(self, error):
        count = 1 if self.real is None else 2
        pixels = torch.zeros(count, SIDE, SIDE, 3, dtype=torch.uint8)
        holes, labels = torch.zeros(count, 4, dtype=torch.long), torch.zeros(3, dtype=torch.long)
        return RecognitionItem(pixels, holes, labels, 1.0, 1.0, UNKNOWN_POSE, error)

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
