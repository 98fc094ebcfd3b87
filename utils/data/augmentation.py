"""AdaFace's augmentation of face crops (Kim et al., 2022, section 3.4), and random erasing.

Each image has its own random generator, from which all of its draws are made.
"""

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF

SMALLEST_AREA = 0.2  # smallest area of a crop, as a fraction of the image's
SMALLEST_SIDE = 0.2  # smallest side of a low-resolution copy, as a fraction of the image's
JITTER = 0.5  # largest relative change of brightness, contrast and saturation
INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
NO_HOLE = (0, 0, 0, 0)
ERASED_AREA = (0.02, 0.33)  # range of the erased area, as a fraction of the image's
ERASED_RATIO = (0.3, 3.3)  # range of height over width of the erased rectangle
ERASING_ATTEMPTS = 10  # at drawing a rectangle that fits into the image


def augment_face(image: np.ndarray, rng: np.random.Generator, probability: float) -> tuple[np.ndarray, bool]:
    """(H, W, 3) uint8 -> the augmented image (H, W, 3) uint8, and whether it was mirrored.

    The image is mirrored with probability 1/2. Crop, low resolution and colour change are each applied with
    ``probability``.
    """
    mirrored = rng.random() < 0.5
    if mirrored:
        image = image[:, ::-1]
    for change in (crop, lower_resolution, change_colours):
        if rng.random() < probability:
            image = change(image, rng)
    return np.ascontiguousarray(image), mirrored


def crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Set everything outside a random rectangle of (H, W, 3) to black; the face is not moved."""
    height, width = image.shape[:2]
    area, ratio = rng.uniform(SMALLEST_AREA, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    h, w = min(height, round(height * (area / ratio) ** 0.5)), min(width, round(width * (area * ratio) ** 0.5))
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    result = np.zeros_like(image)
    result[y : y + h, x : x + w] = image[y : y + h, x : x + w]
    return result


def lower_resolution(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale (H, W, 3) down by a random factor and back up, with random interpolation methods."""
    height, width = image.shape[:2]
    scale = rng.uniform(SMALLEST_SIDE, 1)
    down, up = rng.choice(INTERPOLATIONS, 2)
    small = (max(1, int(width * scale)), max(1, int(height * scale)))
    return cv2.resize(cv2.resize(image, small, interpolation=int(down)), (width, height), interpolation=int(up))


def change_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and saturation of (H, W, 3) uint8 in random order."""
    result = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)  # (3, H, W)
    for name in rng.permutation(["brightness", "contrast", "saturation"]):
        result = getattr(TF, f"adjust_{name}")(result, rng.uniform(1 - JITTER, 1 + JITTER))
    return result.permute(1, 2, 0).numpy()  # (H, W, 3)


def draw_hole(rng: np.random.Generator, probability: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw the rectangle (y, x, h, w) to erase (Zhong et al., 2020), or NO_HOLE with probability 1 - ``probability``.

    The rectangles have the distribution of torchvision's RandomErasing.
    """
    if rng.random() >= probability:
        return NO_HOLE
    for _ in range(ERASING_ATTEMPTS):
        area, ratio = rng.uniform(*ERASED_AREA) * height * width, np.exp(rng.uniform(*np.log(ERASED_RATIO)))
        h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if h < height and w < width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    return NO_HOLE


def erase(images: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """Set the rectangles ``holes`` (N, 4), as (y, x, h, w), of images (N, C, H, W) in [-1, 1] to mid-grey, in place.

    Mid-grey is 0, the default of torchvision's RandomErasing on normalised images. No uint8 value corresponds to it,
    so the images are erased after normalisation.
    """
    y, x, h, w = holes[:, :, None].unbind(1)  # (N, 1) each
    rows = torch.arange(images.shape[2], device=images.device)  # (H,)
    columns = torch.arange(images.shape[3], device=images.device)  # (W,)
    rows, columns = (rows >= y) & (rows < y + h), (columns >= x) & (columns < x + w)  # (N, H), (N, W)
    return images.masked_fill_((rows[:, :, None] & columns[:, None])[:, None], 0)  # mask: (N, 1, H, W)
