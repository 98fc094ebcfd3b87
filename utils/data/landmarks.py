"""Landmark pictures: the five landmarks of a face as coloured dots on black, and where a head at a pose has them.

A picture has red dots for the eyes, a green one for the tip of the nose and blue ones for the corners of the mouth, as
Vec2Face+ draws them. Points are pixels (x, y) of an aligned face, in the order of ``alignment.TEMPLATE``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.errors import UserError
from utils.data.alignment import TEMPLATE
from utils.data.images import SIDE, read_image

RED, GREEN, BLUE = 0, 1, 2
COLOURS = (RED, RED, GREEN, BLUE, BLUE)  # channel of each dot
DOT = 3  # pixels along an edge of a dot
BRIGHT = 100  # value from which a pixel belongs to a dot, in pictures that were compressed
OVERLAP = 1.15  # size of two dots that cover each other in part, at least, relative to a single dot

# The landmarks of an average head at yaw 0 in metres, x to the right, y down, z away: the mean of 60 rendered people.
# The origin is the point that heads turn about, 8 cm behind the eyes and 3 cm below them.
HEAD = np.float64(
    [
        [-0.0315, -0.0300, -0.0800],
        [0.0315, -0.0300, -0.0800],
        [0.0000, 0.0133, -0.1262],
        [-0.0258, 0.0438, -0.0995],
        [0.0258, 0.0438, -0.0995],
    ]
)
DISTANCE = 1.1  # metres from the camera
LARGEST = {"yaw": 90, "pitch": 45, "roll": 45}  # degrees to either side


def landmarks_at(yaw: float, pitch: float = 0.0, roll: float = 0.0, distance: float = DISTANCE) -> np.ndarray:
    """The landmarks (5, 2) of the average head at a pose in degrees, aligned as the photos of world/render_faces.py.

    Positive angles turn the face to the right of the image, upwards, and clockwise. The scale is that of distances in
    space, so that a profile is not enlarged. ``distance``: metres from the camera. Raises ValueError for angles beyond
    LARGEST.
    """
    for name, angle in (("yaw", yaw), ("pitch", pitch), ("roll", roll)):
        if not abs(angle) <= LARGEST[name]:
            raise ValueError(f"a {name} of {angle:g} degrees; it lies between -{LARGEST[name]} and {LARGEST[name]}")
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.deg2rad([yaw, pitch, roll])), np.sin(np.deg2rad([yaw, pitch, roll]))
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])  # moves the nose from (0, 0, -1) to (0, -sin, -cos)
    turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])  # moves it to (sin, 0, -cos)
    points = HEAD @ (turn @ nod).T + [0, 0, distance]  # (5, 3)
    seen = points[:, :2] / points[:, 2:]  # (5, 2)
    focal = points[:, 2].mean() * size_of(TEMPLATE) / size_of(HEAD)  # pixels
    tilt = np.array([[cr, -sr], [sr, cr]])
    placed = focal * seen @ tilt.T  # (5, 2)
    return placed + TEMPLATE.mean(0) - placed.mean(0)


def size_of(points: np.ndarray) -> float:
    """Distance between the eyes, plus that between the middles of eyes and mouth, of landmarks (5, 2) or (5, 3)."""
    middles = points[:2].mean(0) - points[3:].mean(0)
    return float(np.linalg.norm(points[1] - points[0]) + np.linalg.norm(middles))


def check_landmarks(points: Any) -> np.ndarray:
    """Five points in the image as (5, 2) float64. Raises ValueError when they are others."""
    try:
        points = np.asarray(points, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("landmarks that are not five pairs of numbers") from error
    if points.shape != (5, 2):
        raise ValueError(f"landmarks of shape {points.shape}; a face has five points (x, y)")
    if not ((points >= 0) & (points < SIDE)).all():  # also refuses NaN
        raise ValueError(f"landmarks off the image of {SIDE} x {SIDE} pixels")
    return points


def draw_landmarks(points: np.ndarray) -> np.ndarray:
    """Landmarks (5, 2) -> their picture (112, 112, 3) uint8 RGB. Raises ValueError as ``check_landmarks``.

    The edges of a dot between pixels are dimmed in proportion, so that the picture tells fractions of a pixel.
    """
    picture = np.zeros((SIDE, SIDE, 3))
    at = np.arange(SIDE)
    for (x, y), channel in zip(check_landmarks(points), COLOURS, strict=True):
        column, row = (np.clip((DOT + 1) / 2 - np.abs(at - centre), 0, 1) for centre in (x, y))  # (112,) each
        dot = row[:, None] * column  # (112, 112)
        picture[..., channel] = np.maximum(picture[..., channel], dot)
    return np.round(255 * picture).astype(np.uint8)


def check_picture(picture: np.ndarray) -> None:
    """Raise ValueError unless an image (H, W, 3) uint8 is a landmark picture with all five dots.

    In a profile the two dots of the eyes, or of the mouth, may be one spot, which is then larger than a single dot.
    """
    if picture.shape != (SIDE, SIDE, 3):
        height, width = picture.shape[:2]
        raise ValueError(f"a picture of {width} x {height} pixels; landmark pictures have {SIDE} x {SIDE}")
    dots = [spots(picture, channel) for channel in (RED, GREEN, BLUE)]
    single = dots[GREEN][0] if len(dots[GREEN]) == 1 else None
    found = [len(dots[GREEN])]
    for channel in (RED, BLUE):
        sizes = dots[channel]
        found.append(2 if len(sizes) == 1 and single and sizes[0] >= OVERLAP * single else len(sizes))
    if found != [1, 2, 2]:
        raise ValueError(
            f"{found[1]} red, {found[0]} green and {found[2]} blue dots; a landmark picture has two red ones (eyes), a "
            "green one (nose) and two blue ones (mouth) on black"
        )


def spots(picture: np.ndarray, channel: int) -> list[int]:
    """The sizes in pixels of the connected spots of one colour in an image (H, W, 3) uint8."""
    others = np.delete(picture, channel, axis=2).max(2)  # (H, W)
    mask = (picture[..., channel] >= BRIGHT) & (picture[..., channel] > others)
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return statistics[1:, cv2.CC_STAT_AREA].tolist()


def read_pictures(paths: Iterable[Path]) -> list[np.ndarray]:
    """The landmark pictures (112, 112, 3) uint8 RGB in image files. Raises UserError that names an unsuitable one."""
    pictures = []
    for path in paths:
        try:
            picture = read_image(path)
            check_picture(picture)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such landmark picture.") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a landmark picture: {error}.") from error
        pictures.append(picture)
    return pictures


def landmarks_of_label(label: dict[str, Any]) -> np.ndarray:
    """The landmarks (5, 2) in a line of labels, or else those of an average head at its yaw, pitch and roll.

    Raises ValueError when it has neither, or they are unsuitable.
    """
    if "landmarks" in label and not isinstance(label["landmarks"], dict):
        return check_landmarks(label["landmarks"])
    if "yaw" not in label:
        raise ValueError("neither landmarks nor a yaw")
    angles = [label.get(name) or 0.0 for name in ("yaw", "pitch", "roll")]
    if not all(isinstance(angle, (int, float)) for angle in angles):
        raise ValueError("angles that are not numbers")
    return check_landmarks(landmarks_at(*angles))
