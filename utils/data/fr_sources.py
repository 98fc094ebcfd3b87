"""Loading the files that make up the training data of a face recogniser."""

from pathlib import Path

import numpy as np

from models.errors import UserError
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.fr_data import PSI, RecognitionData
from utils.data.mixup import Shares


def load_recognition_data(
    path: Path | str,
    mask: Path | str | None = None,
    *,
    mixed: Path | str | None = None,
    mixed_labels: Path | str | None = None,
    real: Path | str | None = None,
    real_people: int | None = None,
    real_images: int | None = None,
    domain_mixup: str = str(PSI),
    with_poses: bool = False,
    seed: int = 0,
    **settings: float,
) -> RecognitionData:
    """The RecognitionData of a dataset of identities, or of mixtures of identities with soft labels.

    ``mask``: a ``.npy`` of the positions to use. ``mixed``, ``mixed_labels``: further images, of one mixture under
    several names each, and their labels. ``real``: photos of domain mixup, of which ``real_people`` and ``real_images``
    choose a part; ``domain_mixup``: the distribution of the share of the synthetic image. ``with_poses``: whether to
    read the poses of rendered photos. ``settings``: further parameters of RecognitionData. Raises UserError when a file
    is not of the expected kind, or the files do not fit together.
    """
    faces = FaceSet(path, mask, mixtures="read")
    if len(faces.identities) < 2:
        raise UserError(f"{path}: one identity only; a recogniser learns to tell identities apart.")
    if bool(mixed) != bool(mixed_labels):
        raise UserError("--mixed_data and --mixed_labels go together.")
    if (real_people or real_images) and not real:
        raise UserError("--real_people and --real_images: choose photos of --real_data, which is not given.")
    return RecognitionData(
        faces,
        mixed=FaceSet(mixed) if mixed else None,
        mixture_labels=load_mixture_labels(mixed_labels) if mixed_labels else None,
        real=choose_photos(FaceSet(real), real_people, real_images, seed) if real else None,
        poses=[(label["yaw"], label["pitch"]) for label in load_labels(faces)] if with_poses else None,
        psi=parse_psi(domain_mixup),
        seed=seed,
        **settings,
    )


def choose_photos(faces: FaceSet, people: int | None, images: int | None, seed: int) -> FaceSet:
    """``images`` random photos of each of ``people`` random identities; None for all. Raises UserError for too few."""
    if people is None and images is None:
        return faces
    counts = np.bincount(faces.labels)
    enough = np.flatnonzero(counts >= (images or 1))
    people = len(counts) if people is None else people
    if len(enough) < people:
        raise UserError(
            f"{faces.path}: {people} people with {images or 1} photos or more are asked for (--real_people, "
            f"--real_images), but only {len(enough)} of its {len(counts)} people have as many."
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 0, 0)))
    chosen = rng.permutation(enough)[:people]
    photos = [rng.permutation(np.flatnonzero(faces.labels == label))[:images] for label in chosen]
    return faces.part(np.sort(np.concatenate(photos)))


def load_mixture_labels(path: Path | str) -> np.ndarray:
    """The rows (label a, label b, weight of a), (M, 3), that sample_identities.py --mixup writes.

    Raises UserError when the file cannot be read.
    """
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not the labels of mixtures: {error}") from error


def parse_psi(text: str) -> Shares:
    """The Shares of --domain_mixup: LOW:HIGH, or a text that they read themselves. Raises UserError for others."""
    try:
        return Shares.parse(f"uniform:{text}" if text.count(":") == 1 else text)
    except ValueError as error:
        raise UserError(f"--domain_mixup {text}: {error}; LOW:HIGH stands for uniform:LOW:HIGH.") from error
