"""The head of the parametric body model ``anny`` (Apache-2.0, on MakeHuman's CC0 data) as plain arrays.

Axes of the model, in metres: x to the person's left, y to the back, z up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.errors import UserError

CUT, REACH = 0.44, 0.2  # the part of the body that is used: above this height, up to this far to either side
COLLAR = 0.563  # height below which the body wears clothes
SIDE = 512  # side in texels of the texture of the head
AXIS_Y = -0.045  # y of the vertical axis through the head around which the texture is wrapped
BOTTOM, TOP = 0.54, 0.82  # heights of the lower and upper edge of the texture
ISLAND = (0.63, 0.11, 1.0, 0.88)  # u, v, u, v of the head's skin in the body's original texture
FACE_PARTS = ("cheek", "chin", "ear", "eyebrows", "eye", "forehead", "head", "mouth", "nose", "neck")


@dataclass
class Head:
    """The average head: vertices (V, 3) in metres, triangles ``faces`` (F, 3), and their properties.

    ``uv`` (F, 3, 2): texture coordinates of the corners of triangles, see ``wrapped``. ``eye_faces``, ``inner_faces``
    (mouth and eye sockets) and ``cloth_faces``: masks (F,) of triangles. ``lips`` and ``ears`` (V,): membership in
    0..1. ``openness`` (V,): ambient visibility in 0..1. ``expressions`` (E, V, 3): displacements at full strength of
    the expressions ``expression_names``. ``shape_names``: names of the shape parameters of the face. ``position``
    (SIDE, SIDE, 3) and ``lip_map`` (SIDE, SIDE): position and membership in the lips of each texel. ``landmarks``:
    vertices of the tip of the nose and the corners of the mouth. ``eyes`` (2, 3): centres of the left and right eye.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    eye_faces: np.ndarray
    inner_faces: np.ndarray
    cloth_faces: np.ndarray
    lips: np.ndarray
    ears: np.ndarray
    openness: np.ndarray
    expressions: np.ndarray
    expression_names: list[str]
    shape_names: list[str]
    position: np.ndarray
    lip_map: np.ndarray
    landmarks: dict[str, int]
    eyes: np.ndarray


class HeadModel:
    """The parametric head. ``head``: the average one. Raises UserError if a required package is missing."""

    def __init__(self):
        try:
            import anny
            import torch
        except ImportError as error:
            raise UserError("rendering needs more packages: pip install -e .[render]") from error
        self.torch = torch
        self.body = anny.Anny(local_changes="all", facial_actions="all", phenotypes="all").float()
        data = Path(anny.__path__[0]) / "data"
        self.shape_names = [
            name
            for name in self.body.local_change_labels
            if "-age-" not in name and name.removeprefix("l-").removeprefix("r-").split("-")[0] in FACE_PARTS
        ]
        self._cut(data)

    def _forward(self, **options: Any) -> np.ndarray:
        """The vertices of bodies (N, B, 3)."""
        with self.torch.no_grad():
            return self.body(**options)["vertices"].numpy()

    def _cut(self, data: Path) -> None:
        """Make ``head`` from the head, neck and shoulders of the average body. ``data``: data folder of ``anny``."""
        from world.renderer.rasterizer import openness  # needs warp, which is an optional package

        phenotypes = self._phenotypes({})
        body = self._forward(phenotype_kwargs=phenotypes)[0]  # (B, 3)
        faces = self.body.faces.numpy()
        uv = self.body.texture_coordinates.numpy()[self.body.face_texture_coordinate_indices.numpy()]  # (F, 3, 2)
        uv = np.stack([uv[..., 0], 1 - uv[..., 1]], -1)  # (F, 3, 2); v from above
        keep = ((body[:, 2] > CUT) & (np.abs(body[:, 0]) < REACH))[faces].all(1)
        used = np.unique(faces[keep])
        renumber = np.full(len(body), -1)
        renumber[used] = np.arange(len(used))
        self.used = used
        vertices, triangles, uv = body[used], renumber[faces[keep]], uv[keep]
        parts = cv2.imread(str(data / "segmentation" / "body_parts_segmentation.png"))[..., ::-1]
        eye_faces = self._faces_in(parts, uv, [(16, 231, 186), (16, 115, 231), (255, 101, 0), (24, 170, 109)])
        height = vertices[triangles].mean(1)[:, 2]
        cloth_faces = height < COLLAR
        outside = ((uv < ISLAND[:2]) | (uv > ISLAND[2:])).any((1, 2))
        inner_faces = outside & ~eye_faces & (height > 0.6)
        names = list(self.body.facial_action_labels)
        each = self.torch.eye(len(names))  # (E, E): each expression at full strength
        shifts = self._forward(phenotype_kwargs=phenotypes, facial_actions=dict(zip(names, each, strict=True)))
        shifts = shifts[:, used] - body[used]  # (E, V, 3)
        skin = ~(eye_faces | inner_faces | cloth_faces)
        masks = {
            name: cv2.imread(str(data / "mpfb2" / "textures" / f"mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE) / 255.0
            for name in ("lips", "ears")
        }
        lips, ears = (self._at_vertices(masks[name], uv[skin], triangles[skin], len(used)) for name in masks)
        new_uv = self._unwrapped(vertices, triangles)
        position, lip_map = self._maps(vertices, triangles[skin], new_uv[skin], uv[skin], masks["lips"])
        nose = np.unique(triangles[skin])[vertices[np.unique(triangles[skin]), 1].argmin()]
        mouth = np.flatnonzero(lips > 0.5)
        left, right = mouth[vertices[mouth, 0].argmax()], mouth[vertices[mouth, 0].argmin()]
        eyes = np.stack([self._eye_centre(vertices, triangles, eye_faces, side) for side in (1, -1)])  # (2, 3)
        self.head = Head(
            vertices, triangles, new_uv, eye_faces, inner_faces, cloth_faces, lips, ears,
            openness(vertices, triangles), shifts, names, self.shape_names, position, lip_map,
            {"nose": nose, "mouth_left": left, "mouth_right": right}, eyes,
        )  # fmt: skip

    @staticmethod
    def _faces_in(picture: np.ndarray, uv: np.ndarray, colours: Iterable[tuple[int, int, int]]) -> np.ndarray:
        """Whether the centre of each triangle, (F,), has one of the colours in an image (H, W, 3)."""
        height, width = picture.shape[:2]
        centre = uv.mean(1)
        pixels = picture[
            (centre[:, 1] * height).astype(int).clip(0, height - 1),
            (centre[:, 0] * width).astype(int).clip(0, width - 1),
        ]
        return np.any([(np.abs(pixels.astype(int) - colour) <= 8).all(1) for colour in colours], axis=0)

    @staticmethod
    def _eye_centre(vertices: np.ndarray, faces: np.ndarray, eye_faces: np.ndarray, side: int) -> np.ndarray:
        """The centre (3,) of the left (``side`` 1) or right (-1) eye."""
        own = np.unique(faces[eye_faces])
        own = own[np.sign(vertices[own, 0]) == side]
        return (vertices[own].max(0) + vertices[own].min(0)) / 2

    @staticmethod
    def _at_vertices(mask: np.ndarray, uv: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
        """The values at ``count`` vertices, (V,), of a map (H, W) in the coordinates of the body's original texture."""
        height, width = mask.shape
        corners = uv.reshape(-1, 2)  # (F * 3, 2)
        rows, columns = (corners[:, 1] * height).astype(int), (corners[:, 0] * width).astype(int)
        values = np.zeros(count, np.float32)
        # (F, 3) -> (F * 3,)
        np.maximum.at(values, faces.reshape(-1), mask[rows.clip(0, height - 1), columns.clip(0, width - 1)])
        return values

    @staticmethod
    def _unwrapped(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Texture coordinates (F, 3, 2); triangles across the seam at the back are moved to the right edge."""
        uv = wrapped(vertices)[faces]
        over = np.ptp(uv[..., 0], axis=1) > 0.5
        uv[over, :, 0] = np.where(uv[over, :, 0] < 0.5, 1.0, uv[over, :, 0])
        return uv.astype(np.float32)

    @staticmethod
    def _maps(
        vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, old_uv: np.ndarray, lips: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Position (SIDE, SIDE, 3) and lips (SIDE, SIDE) of the outermost surface at each texel."""
        radius = np.hypot(vertices[:, 0], vertices[:, 1] - AXIS_Y)[faces].mean(1)
        order = radius.argsort()  # outermost last, so that it is on top
        values = np.concatenate([vertices[faces], old_uv], -1)[order]  # (F, 3, 5)
        filled = np.full((SIDE, SIDE, 5), np.nan, np.float32)
        fill_triangles(filled, uv[order] * SIDE, values)
        known = ~np.isnan(filled[..., 0])
        _, nearest = cv2.distanceTransformWithLabels(
            (~known).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
        )
        table = np.zeros((nearest.max() + 1, 5), np.float32)
        table[nearest[known]] = filled[known]
        filled = table[nearest]  # texels outside all triangles copy the nearest
        lip_texels = filled[..., 3:] * np.float32(lips.shape[::-1])
        lip_map = cv2.remap(lips.astype(np.float32), lip_texels, None, cv2.INTER_LINEAR)
        return np.ascontiguousarray(filled[..., :3]), lip_map

    def _phenotypes(self, values: dict[str, float]) -> dict[str, float]:
        """All phenotype parameters, with average values for those that are not in ``values``."""
        return {name: 0.5 for name in self.body.phenotype_labels} | {"age": 0.6} | values

    def vertices_of(self, phenotypes: dict[str, float], shapes: dict[str, float]) -> np.ndarray:
        """The vertices (V, 3) of the head with phenotype parameters in 0..1 and shape parameters in -1..1, by name."""
        return self._forward(phenotype_kwargs=self._phenotypes(phenotypes), local_changes_kwargs=shapes)[0][self.used]


def wrapped(points: np.ndarray) -> np.ndarray:
    """Texture coordinates (..., 2) of points (..., 3): angle around the head, u, and height from above, v.

    u = 0.5 + 0.5 asinh(angle) / asinh(pi), so that the resolution is highest in front.
    """
    angle = np.arctan2(points[..., 0], AXIS_Y - points[..., 1])
    u = 0.5 + 0.5 * np.arcsinh(angle) / np.arcsinh(np.pi)
    return np.stack([u, (TOP - points[..., 2]) / (TOP - BOTTOM)], -1)  # (..., 2)


def fill_triangles(picture: np.ndarray, corners: np.ndarray, values: np.ndarray) -> None:
    """Draw triangles into an image (SIDE, SIDE, C), in place; later triangles cover earlier ones.

    ``corners`` (F, 3, 2): in pixels. ``values`` (F, 3, C): values at the corners, which are interpolated. The T texels
    in the bounding boxes of all triangles are computed at once.
    """
    low, high = np.floor(corners.min(1)).astype(int), np.ceil(corners.max(1)).astype(int)  # (F, 2)
    low, high = low.clip(0, SIDE), (high + 1).clip(0, SIDE)
    size = high - low
    count = size.prod(1)  # (F,)
    face = np.repeat(np.arange(len(corners)), count)  # (T,)
    offset = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)  # (T,): index in the box, row by row
    column, row = low[face, 0] + offset % size[face, 0], low[face, 1] + offset // size[face, 0]
    x, y = column + 0.5, row + 0.5
    (x0, y0), (x1, y1), (x2, y2) = corners[face].transpose(1, 2, 0)  # (T,) each
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    with np.errstate(divide="ignore", invalid="ignore"):  # triangles without area are skipped
        b = ((x - x0) * (y2 - y0) - (x2 - x0) * (y - y0)) / area
        c = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)) / area
    inside = (abs(area) >= 1e-12) & (b >= -0.02) & (c >= -0.02) & (b + c <= 1.02)
    face, b, c = face[inside], b[inside, None], c[inside, None]  # (T', 1)
    picture[row[inside], column[inside]] = (1 - b - c) * values[face, 0] + b * values[face, 1] + c * values[face, 2]


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), the area-weighted means of the normals of the adjacent triangles (F, 3)."""
    corners = vertices[faces]  # (F, 3, 3)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # (F, 3)
    # (V, 3)
    total = np.stack(
        [np.bincount(faces.ravel(), np.repeat(across[:, axis], 3), len(vertices)) for axis in range(3)], -1
    )
    return (total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)
