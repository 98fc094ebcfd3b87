"""The scene of a photo: light, background, clothes and occlusion."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from utils.data.images import SIDE

Setting = dict[str, Any]  # the conditions of a photo; see photo.draw_setting

# Pairs of linear RGB colours of backgrounds: walls, sky, foliage, wood, streets, rooms at night.
BACKGROUNDS = np.float32(
    [
        [[0.55, 0.54, 0.52], [0.30, 0.29, 0.28]],
        [[0.42, 0.40, 0.36], [0.16, 0.14, 0.12]],
        [[0.46, 0.56, 0.68], [0.66, 0.69, 0.72]],
        [[0.17, 0.20, 0.09], [0.045, 0.06, 0.025]],
        [[0.30, 0.17, 0.08], [0.08, 0.04, 0.02]],
        [[0.26, 0.26, 0.27], [0.09, 0.09, 0.10]],
        [[0.04, 0.04, 0.05], [0.012, 0.012, 0.015]],
        [[0.16, 0.22, 0.30], [0.05, 0.07, 0.10]],
        [[0.58, 0.47, 0.35], [0.28, 0.20, 0.13]],
        [[0.80, 0.80, 0.80], [0.60, 0.60, 0.60]],
    ]
)
CLOTH = np.float32(  # linear RGB
    [
        [0.02, 0.02, 0.022], [0.75, 0.75, 0.74], [0.03, 0.045, 0.10], [0.18, 0.18, 0.19], [0.22, 0.03, 0.03],
        [0.05, 0.10, 0.06], [0.45, 0.38, 0.28], [0.16, 0.28, 0.45], [0.09, 0.05, 0.03], [0.40, 0.20, 0.24],
    ]
)  # fmt: skip


@dataclass
class Light:
    """The light of a photo, in camera space and linear RGB.

    ``directions``: unit vectors (3,) to the lights, and ``colours``: their RGB (3,). Only the first light casts
    shadows, whose edges have a width of ``softness`` metres. ``ambient`` and ``ground``: RGB of the diffuse light from
    above and from below.
    """

    directions: list[np.ndarray]
    colours: list[np.ndarray]
    ambient: np.ndarray
    ground: np.ndarray
    softness: float


def make_light(setting: Setting) -> Light:
    """The light of a photo: the key light of the setting, a fill light from the other side, and a rim light."""
    azimuth, elevation = np.deg2rad([setting["light_azimuth"], setting["light_elevation"]])
    warm = np.float32([1 + setting["warmth"], 1.0, 1 - setting["warmth"]])
    key = np.float32([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), -np.cos(azimuth) * np.cos(elevation)])
    side = np.sign(key[0] + 1e-3)
    fill, rim = np.float32([-0.6 * side, -0.35, -0.72]), np.float32([0.6 * side, -0.5, 0.62])
    hard = setting["light_hardness"]
    return Light(
        [key, fill / np.linalg.norm(fill), rim],
        [1.5 * hard * warm, 0.45 * (1 - 0.5 * hard) * (1.5 - 0.5 * warm), 0.25 * hard * warm],
        0.85 * (1 - 0.55 * hard) * (1.4 - 0.4 * warm),
        0.5 * (1 - 0.55 * hard) * warm,
        0.02 * (1.05 - hard),
    )


def make_background(rng: np.random.Generator) -> np.ndarray:
    """A blurred background (112, 112, 3) in linear RGB: a colour gradient, possibly with rectangles or discs."""
    near, far = BACKGROUNDS[rng.integers(len(BACKGROUNDS))] * rng.uniform(0.6, 1.2)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE - 0.5
    t = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]  # (112, 112, 1)
    picture = near * (1 - t) + far * t
    kind = rng.random()
    if kind < 0.35:
        return picture
    things = BACKGROUNDS[rng.integers(len(BACKGROUNDS), size=2)].reshape(-1, 3)  # (2, 2, 3) -> (4, 3)
    for _ in range(rng.integers(4, 16)):
        colour = (things[rng.integers(len(things))] * rng.uniform(0.5, 1.1)).tolist()
        corner = rng.integers(-20, SIDE, 2)
        if kind < 0.7:  # shelves, windows, door frames
            size = rng.integers(6, 60, 2) * (1, 2) if rng.random() < 0.6 else rng.integers(6, 60, 2) * (2, 1)
            cv2.rectangle(picture, corner.tolist(), (corner + size).tolist(), colour, -1)
        else:
            cv2.circle(picture, corner.tolist(), int(rng.integers(3, 22)), colour, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(1.5, 7)))


def make_cloth(rng: np.random.Generator) -> np.ndarray:
    """The linear RGB colour (3,) of the clothes in a photo."""
    return CLOTH[rng.integers(len(CLOTH))] * np.float32(rng.uniform(0.6, 1.1))


def occlude(face: np.ndarray, cover: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cover part of the face with a soft-edged ellipse of one colour, like a scarf, a hand or a mask.

    ``face`` (112, 112, 3) in linear RGB and ``cover`` (112, 112, 1) in 0..1 -> the same, changed.
    """
    patch = np.zeros((SIDE, SIDE), np.float32)
    middle = rng.uniform([15, 60], [97, 115])
    cv2.ellipse(
        patch, middle.astype(int).tolist(), rng.integers(14, 34, 2).tolist(), rng.uniform(0, 180), 0, 360, 1.0, -1
    )
    patch = cv2.GaussianBlur(patch, (0, 0), 1.0)[..., None]  # (112, 112, 1)
    colour = CLOTH[rng.integers(len(CLOTH))] * np.float32(rng.uniform(0.5, 1.0))
    return face * (1 - patch) + patch * colour, np.maximum(cover, patch)
