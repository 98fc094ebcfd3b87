"""Loading the files that make up the training data of a face recogniser."""

from pathlib import Path

import numpy as np

from models.errors import UserError
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.fr_data import RecognitionData


def load_recognition_data(
    path: Path | str,
    mask: Path | str | None = None,
    *,
    mixed: Path | str | None = None,
    mixed_labels: Path | str | None = None,
    real: Path | str | None = None,
    domain_mixup: str = "0.6:1.0",
    with_poses: bool = False,
    **settings: float,
) -> RecognitionData:
    """The RecognitionData of a dataset of identities.

    ``mask``: a ``.npy`` of the positions to use. ``mixed``, ``mixed_labels``: images and labels of identity mixup.
    ``real``: photos of domain mixup, with the range ``domain_mixup``, LOW:HIGH. ``with_poses``: whether to read the
    poses of rendered photos. ``settings``: further parameters of RecognitionData. Raises UserError when a file is not
    of the expected kind, or the files do not fit together.
    """
    faces = FaceSet(path, mask)
    if len(faces.identities) < 2:
        raise UserError(f"{path}: one identity only; a recogniser learns to tell identities apart.")
    if bool(mixed) != bool(mixed_labels):
        raise UserError("--mixed_data and --mixed_labels go together.")
    if mixed and real:
        raise UserError("--mixed_data and --real_data: use one kind of mixup at a time.")
    return RecognitionData(
        faces,
        mixed=FaceSet(mixed) if mixed else None,
        mixture_labels=load_mixture_labels(mixed_labels) if mixed_labels else None,
        real=FaceSet(real) if real else None,
        poses=[(label["yaw"], label["pitch"]) for label in load_labels(faces)] if with_poses else None,
        domain_range=parse_range(domain_mixup),
        **settings,
    )


def load_mixture_labels(path: Path | str) -> np.ndarray:
    """The rows (label a, label b, weight of a), (M, 3), that sample_identities.py --mixup writes.

    Raises UserError when the file cannot be read.
    """
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not the labels of mixtures: {error}") from error


def parse_range(text: str) -> tuple[float, float]:
    """The numbers of ``LOW:HIGH``, the value of --domain_mixup. Raises UserError unless 0 <= LOW <= HIGH <= 1."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise UserError(f"--domain_mixup {text}: write it as LOW:HIGH, for example 0.6:1.0.") from error
    if not 0 <= low <= high <= 1:
        raise UserError(f"--domain_mixup {text}: needs 0 <= LOW <= HIGH <= 1.")
    return low, high
