"""The head of the parametric body model ``anny`` (Apache-2.0, on MakeHuman's CC0 data) as plain arrays.

Axes of the model: x to the person's left, y to the back, z up; metres.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError

CUT = 0.54  # height of the cut through the neck
SIDE = 512  # texels of the head's texture
ISLAND = (0.63, 0.11, 1.0, 0.88)  # where the head lies in the body's texture: u, v (from above), u, v
FACE_PARTS = ("cheek", "chin", "ear", "eyebrows", "eye", "forehead", "head", "mouth", "nose", "neck")


@dataclass
class Head:
    """Vertices (V, 3) of the average head, triangles (F, 3), and what is painted where.

    ``uv`` (F, 3, 2): texture coordinates of each triangle's corners in the head's own texture; ``eye_faces`` (F,) bool;
    ``expressions`` (E, V, 3): shifts at full strength, by ``expression_names``; ``shape_names``: of the face's shape
    parameters. ``maps``: (SIDE, SIDE, ...) pictures: position and masks. ``landmarks``: vertices of nose and mouth.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    eye_faces: np.ndarray
    expressions: np.ndarray
    expression_names: list
    shape_names: list
    maps: dict
    landmarks: dict
    eyes: np.ndarray


class HeadModel:
    """``head``: the average one; ``vertices_of(phenotypes, shapes)``: those of a person, (V, 3)."""

    def __init__(self):
        try:
            import anny
            import torch
        except ImportError as error:
            raise UserError("rendering needs more packages: pip install -r requirements-render.txt") from error
        self.torch = torch
        self.body = anny.Anny(local_changes="all", facial_actions="all", phenotypes="all").float()
        data = Path(anny.__path__[0]) / "data"
        self.shape_names = [
            name
            for name in self.body.local_change_labels
            if "-age-" not in name and name.removeprefix("l-").removeprefix("r-").split("-")[0] in FACE_PARTS
        ]
        self._cut(data)

    def _forward(self, **options):
        with self.torch.no_grad():
            return self.body(**options)["vertices"].numpy()

    def _cut(self, data):
        """Keep what is above the neck."""
        phenotypes = self._phenotypes({})
        body = self._forward(phenotype_kwargs=phenotypes)[0]  # (B, 3)
        faces = self.body.faces.numpy()
        uv = self.body.texture_coordinates.numpy()[self.body.face_texture_coordinate_indices.numpy()]  # (F, 3, 2)
        uv = np.stack([uv[..., 0], 1 - uv[..., 1]], -1)  # v from above
        narrow = np.abs(body[:, 0]) < 0.14
        keep = ((body[:, 2] > CUT) & narrow)[faces].all(1)
        used = np.unique(faces[keep])
        renumber = np.full(len(body), -1)
        renumber[used] = np.arange(len(used))
        self.used = used
        parts = cv2.imread(str(data / "segmentation" / "body_parts_segmentation.png"))[..., ::-1]
        eye_faces = self._faces_in(parts, uv[keep], [(16, 231, 186), (16, 115, 231), (255, 101, 0), (24, 170, 109)])
        names = list(self.body.facial_action_labels)
        each = self.torch.eye(len(names))  # a row an expression, at full strength
        shifts = self._forward(phenotype_kwargs=phenotypes, facial_actions=dict(zip(names, each, strict=True)))
        shifts = shifts[:, used] - body[used]  # (E, V, 3)
        island = np.array(ISLAND)
        local = (uv[keep] - island[:2]) / (island[2:] - island[:2])
        vertices, triangles = body[used], renumber[faces[keep]]
        maps = self._maps(vertices, triangles, local, eye_faces, data)
        eyes = np.stack([self._eye_centre(vertices, triangles, eye_faces, side) for side in (1, -1)])
        self.head = Head(
            vertices, triangles, local.astype(np.float32), eye_faces, shifts, names,
            self.shape_names, maps, self._landmarks(vertices, triangles, eye_faces, local, maps), eyes,
        )  # fmt: skip

    @staticmethod
    def _faces_in(picture, uv, colours):
        height, width = picture.shape[:2]
        centre = uv.mean(1)
        pixels = picture[
            (centre[:, 1] * height).astype(int).clip(0, height - 1),
            (centre[:, 0] * width).astype(int).clip(0, width - 1),
        ]
        return np.any([(np.abs(pixels.astype(int) - colour) <= 8).all(1) for colour in colours], axis=0)

    @staticmethod
    def _eye_centre(vertices, faces, eye_faces, side):
        own = np.unique(faces[eye_faces])
        own = own[np.sign(vertices[own, 0]) == side]
        return (vertices[own].max(0) + vertices[own].min(0)) / 2

    def _maps(self, vertices, faces, uv, eye_faces, data):
        """Template position of every texel, and MakeHuman's masks, in the head's own texture."""
        position = np.full((SIDE, SIDE, 3), np.nan, np.float32)
        fill_triangles(position, uv[~eye_faces] * SIDE, vertices[faces[~eye_faces]])
        known = ~np.isnan(position[..., 0])
        _, nearest = cv2.distanceTransformWithLabels(
            (~known).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
        )
        table = np.zeros((nearest.max() + 1, 3), np.float32)
        table[nearest[known]] = position[known]
        position = table[nearest]  # texels between triangles take the nearest one's
        maps = {"position": position, "known": known}
        for name in ("lips", "eyelids", "face", "ears"):
            mask = cv2.imread(str(data / "mpfb2" / "textures" / f"mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE)
            size = mask.shape[0]
            left, top, right, bottom = (round(edge * size) for edge in ISLAND)
            maps[name] = cv2.resize(mask[top:bottom, left:right], (SIDE, SIDE)).astype(np.float32) / 255
        return maps

    @staticmethod
    def _landmarks(vertices, faces, eye_faces, uv, maps):
        skin = np.unique(faces[~eye_faces])
        nose = skin[vertices[skin, 1].argmin()]
        lips, strength = {}, maps["lips"]
        for face, corners in zip(faces[~eye_faces], uv[~eye_faces], strict=True):
            for vertex, (u, v) in zip(face, corners, strict=True):
                if 0 <= u < 1 and 0 <= v < 1 and strength[int(v * SIDE), int(u * SIDE)] > 0.5:
                    lips[vertex] = vertices[vertex, 0]
        return {"nose": nose, "mouth_left": max(lips, key=lips.get), "mouth_right": min(lips, key=lips.get)}

    def _phenotypes(self, values):
        return {name: 0.5 for name in self.body.phenotype_labels} | {"age": 0.6} | values

    def vertices_of(self, phenotypes, shapes):
        """A person's head (V, 3): ``phenotypes`` {name: 0..1}, ``shapes`` {name: -1..1}."""
        return self._forward(phenotype_kwargs=self._phenotypes(phenotypes), local_changes_kwargs=shapes)[0][self.used]


def fill_triangles(picture, corners, values):
    """Interpolate ``values`` (F, 3, C) over triangles with ``corners`` (F, 3, 2) in pixels; the last covers the others.

    The texels of all triangles' boxes are taken at once, T of them.
    """
    low, high = np.floor(corners.min(1)).astype(int), np.ceil(corners.max(1)).astype(int)  # (F, 2)
    low, high = low.clip(0, SIDE), (high + 1).clip(0, SIDE)
    size = high - low
    count = size.prod(1)  # (F,)
    face = np.repeat(np.arange(len(corners)), count)  # (T,)
    place = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)  # (T,) within the box, row by row
    column, row = low[face, 0] + place % size[face, 0], low[face, 1] + place // size[face, 0]
    x, y = column + 0.5, row + 0.5
    (x0, y0), (x1, y1), (x2, y2) = corners[face].transpose(1, 2, 0)  # (T,) each
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    with np.errstate(divide="ignore", invalid="ignore"):  # triangles without area cover nothing
        b = ((x - x0) * (y2 - y0) - (x2 - x0) * (y - y0)) / area
        c = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)) / area
    inside = (abs(area) >= 1e-12) & (b >= -0.02) & (c >= -0.02) & (b + c <= 1.02)
    face, b, c = face[inside], b[inside, None], c[inside, None]  # (T', 1)
    picture[row[inside], column[inside]] = (1 - b - c) * values[face, 0] + b * values[face, 1] + c * values[face, 2]
