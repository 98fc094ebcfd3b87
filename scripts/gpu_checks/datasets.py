"""Shared by the checks that generate datasets: command lines, and the comparison of two datasets."""

from pathlib import Path

import numpy as np

from scripts.gpu_checks.setting import DEMO, Setting
from utils.data.images import read_image

QUALITY = 26
NAME = "set"


def generation_words(setting: Setting, output: Path, *more: object) -> list[str]:
    """The arguments of image_generation.py with the demo models; ``more``: further ones."""
    encoder = DEMO / "face_encoder.pth"
    words = [
        "--model_weights", DEMO / "vec2face_generator.pth", "--id_weights", encoder, "--quality_weights", encoder,
        "--center_feature", DEMO / "identity_vectors.npy", "--image_quality", QUALITY, "--device", setting.device,
        "--no-measure", "--output_dir", output, "--name", NAME, *more,
    ]  # fmt: skip
    return list(map(str, words))


def images_of(output: Path) -> dict[str, bytes]:
    """{name: bytes} of the images of the dataset in an output folder."""
    folder = output / NAME
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.jpg"))}


def difference(output: Path, expected: Path) -> tuple[list[str], int, int]:
    """Of two datasets: the images that only one of them has, how many others differ, and by how many grey levels."""
    images, references = images_of(output), images_of(expected)
    unequal = [name for name in images.keys() & references.keys() if images[name] != references[name]]
    pairs = ([read_image(folder / NAME / name).astype(int) for folder in (output, expected)] for name in unequal)
    largest = max((int(np.abs(a - b).max()) for a, b in pairs), default=0)
    return sorted(images.keys() ^ references.keys()), len(unequal), largest


def described(unequal: int, count: int, largest: int) -> str:
    """The figure on ``unequal`` of ``count`` images."""
    return f"no: {unequal} of {count} differ, by up to {largest} grey levels" if unequal else f"yes, all {count}"
