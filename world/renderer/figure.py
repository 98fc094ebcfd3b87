"""The mesh of a person: head and shoulders, glasses, and strands of hair."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from world.renderer.hair import Hairdresser, HairKind, Strands
from world.renderer.head import COLLAR, SIDE, Head, HeadModel
from world.renderer.paint import Painter
from world.renderer.person import Person, rotation

WIDTH = SIDE + 128  # width in texels of the texture: that of the head, and a column of blocks
BLOCK = 96  # side in texels of the blocks of eyes and hair
EYES, HAIR, FLAT = 0, 128, 256  # first rows of the blocks
FLATS = {name: FLAT + 32 * k for k, name in enumerate(("frame", "cloth", "inner", "lash"))}  # rows of single colours
COLUMNS = {"hair": (0.0, 0.62), "beard": (0.66, 1.0)}  # ranges of columns in the block of hair, 0..1
INNER = np.float32([0.20, 0.07, 0.06])  # linear RGB of the mouth and the eye sockets


class Mesh(NamedTuple):
    """Vertices (V, 3) and triangles (F, 3)."""

    vertices: np.ndarray
    faces: np.ndarray


class Figure:
    """Head, glasses and hair of a person, as a mesh for ``Rasterizer``.

    ``faces`` (F, 3) and ``uv`` (F, 3, 2): the first ``solid`` triangles are surfaces, the others ribbons of hair.
    ``rest`` (S + H, 3): vertices of the surfaces without expression, then points of strands. ``glasses``: the slice of
    the vertices of the glasses.
    """

    def __init__(self, model: HeadModel, painter: Painter, person: Person, rng: np.random.Generator):
        head = model.head
        self.head_count = len(person.vertices)
        self.expressions, self.names = head.expressions, head.expression_names
        self.eyes = self._eyes(person.vertices, head)
        self.landmarks = head.landmarks
        glasses, glass_faces = self._glasses(person)
        collar, collar_faces = self._collar(person, head)
        self.glasses = slice(self.head_count, self.head_count + len(glasses))
        surface = np.concatenate([person.vertices, glasses, collar]).astype(np.float32)
        self.surface_count = len(surface)
        faces = [head.faces, glass_faces + self.head_count, collar_faces + self.glasses.stop]
        uv = [self._head_uv(person.vertices, head), flat("frame", len(glass_faces)), flat("cloth", len(collar_faces))]
        self.solid = sum(map(len, faces))
        self.openness = np.ones(self.surface_count, np.float32)
        self.openness[: self.head_count] = head.openness
        self.eye_vertices = [np.unique(head.faces[head.eye_faces & side]) for side in self._sides(head)]
        self.shown = np.flatnonzero(head.vertices[:, 2] > COLLAR)[::4]  # the shadow map spans these vertices
        self._comb(Hairdresser(head, painter.regions, person.vertices, rng).all(person.look), faces, uv)
        self.rest = np.concatenate([surface, self.strand_points])
        self.faces, self.uv = np.concatenate(faces), np.concatenate(uv).astype(np.float32)

    def _comb(self, sets: list[tuple[HairKind, Strands]], faces: list[np.ndarray], uv: list[np.ndarray]) -> None:
        """Concatenate the points of all strands, H in total, and append the triangles of their ribbons."""
        total = sum(strands.points[..., 0].size for _, strands in sets)  # H
        parts = {name: [] for name in ("points", "normals", "tangents", "half_width", "open", "roots", "weights")}
        start = 0
        for kind, strands in sets:
            count, length = strands.points.shape[:2]
            tangents = np.gradient(strands.points, axis=1)
            tangents /= np.linalg.norm(tangents, axis=-1, keepdims=True).clip(1e-9)
            for name, values in (("points", strands.points), ("normals", strands.normals), ("tangents", tangents)):
                parts[name].append(values.reshape(-1, 3))  # (S, P, 3) -> (S * P, 3)
            parts["half_width"].append(strands.half_width.ravel())
            parts["open"].append(strands.open.ravel())
            parts["roots"].append(np.repeat(strands.roots, length, 0))
            parts["weights"].append(np.repeat(strands.weights, length, 0))
            left = self.surface_count + start + np.arange(count * length).reshape(count, length)  # (S, P): indices
            a, b = left[:, :-1].ravel(), left[:, 1:].ravel()  # (S * (P - 1),) each
            faces += [np.stack([a, b, a + total], -1), np.stack([b, b + total, a + total], -1)]  # (S * (P - 1), 3) each
            if kind == "lash":
                uv.append(flat("lash", 2 * len(a)))
            else:
                low, high = COLUMNS[kind]
                across = np.repeat(low + (high - low) * strands.shade, length - 1)  # (S * (P - 1),)
                along = np.tile(np.linspace(0, 1, length), (count, 1))  # (S, P)
                top, end = along[:, :-1].ravel(), along[:, 1:].ravel()  # (S * (P - 1),) each
                for heights in ((top, end, top), (end, end, top)):
                    uv.append(in_block(HAIR, np.stack([np.stack([across, h], -1) for h in heights], 1)))  # (T, 3, 2)
            start += count * length
        joined = {name: np.concatenate(values) for name, values in parts.items()}
        self.strand_points = joined["points"].astype(np.float32)
        self.strand_normals, self.tangents = joined["normals"], joined["tangents"]
        self.strand_shape = np.stack([joined["half_width"], joined["open"]], -1)  # (H, 2)
        self.still = sum(strands.points[..., 0].size for kind, strands in sets if kind == "hair")
        self.roots, self.weights = joined["roots"][self.still :], joined["weights"][self.still :]

    @staticmethod
    def _sides(head: Head) -> tuple[np.ndarray, np.ndarray]:
        """Masks (F,) of the triangles on the left and on the right side."""
        left = head.vertices[head.faces[:, 0], 0] > 0
        return left, ~left

    @staticmethod
    def _eyes(vertices: np.ndarray, head: Head) -> np.ndarray:
        """The centres (2, 3) of the left and the right eyeball."""
        sides = Figure._sides(head)
        own = [vertices[np.unique(head.faces[head.eye_faces & side])] for side in sides]
        return np.stack([(v.max(0) + v.min(0)) / 2 for v in own])  # (2, 3)

    def _head_uv(self, vertices: np.ndarray, head: Head) -> np.ndarray:
        """The texture coordinates (F, 3, 2) of the head in the whole texture."""
        uv = head.uv * np.float32([SIDE / WIDTH, 1])
        for eye, side in zip(self.eyes, self._sides(head), strict=True):
            chosen = head.eye_faces & side
            corners = vertices[head.faces[chosen]]  # (F, 3, 3)
            radius = np.abs(corners - eye)[..., 0].max()
            seen = (corners - eye)[..., [0, 2]] / radius * [0.5, -0.5] + 0.5  # projected from the front
            uv[chosen] = in_block(EYES, seen)
        uv[head.inner_faces] = flat("inner", head.inner_faces.sum())
        uv[head.cloth_faces] = flat("cloth", head.cloth_faces.sum())
        return uv

    def _glasses(self, person: Person) -> Mesh:
        """The frame of the glasses."""
        wide, high = person.look["frame_size"]
        width, power = person.look["frame_width"], person.look["frame_shape"]
        turn = np.linspace(0, 2 * np.pi, 29)[:-1]
        pieces = []
        front = self.eyes[:, 1].min() - 0.026
        level = np.abs(person.vertices[:, 2] - self.eyes[:, 2].mean()) < 0.02
        ear_x = np.abs(person.vertices[level, 0]).max() - 0.014
        for eye, side in zip(self.eyes, (1, -1), strict=True):
            centre = np.float32([eye[0] + 0.002 * side, front, eye[2] - 0.003])
            squareness = (np.abs(np.cos(turn)) ** power + np.abs(np.sin(turn)) ** power) ** (-1 / power)
            across, up = wide * np.cos(turn) * squareness, high * np.sin(turn) * squareness
            bend = 4.0 * (across * side).clip(0) ** 2  # curved frames
            ring = centre + np.stack([across, bend, up], -1)  # (28, 3)
            pieces.append(tube(ring, width, closed=True))
            hinge = centre + np.float32([side * wide, 4.0 * wide**2, 0.004])
            ear = np.float32([side * ear_x, -0.005, eye[2] + 0.004])
            pieces.append(
                # (3, 3)
                tube(np.stack([hinge, hinge * 0.5 + ear * 0.5 + np.float32([side * 0.003, 0, 0]), ear]), width)
            )
        inner = self.eyes[:, 0] * np.float32([1, 1]) - np.float32([wide - 0.002, -wide + 0.002])
        bridge = np.float32([[inner[1], front, self.eyes[1, 2]], [0, front - 0.003, self.eyes[:, 2].mean() + 0.004],
                             [inner[0], front, self.eyes[0, 2]]])  # fmt: skip
        pieces.append(tube(bridge, width))
        starts = np.cumsum([0] + [len(v) for v, _ in pieces])
        vertices = np.concatenate([v for v, _ in pieces])
        return Mesh(vertices, np.concatenate([f + s for (_, f), s in zip(pieces, starts, strict=False)]))

    @staticmethod
    def _collar(person: Person, head: Head) -> Mesh:
        """A band around the neck at the upper edge of the clothes."""
        near = np.abs(head.vertices[:, 2] - COLLAR - 0.004) < 0.012
        skin = np.unique(head.faces[~(head.inner_faces | head.eye_faces)])
        ring = person.vertices[np.intersect1d(np.flatnonzero(near), skin)]
        middle = np.median(ring, 0)
        angle, radius = np.arctan2(*(ring - middle)[:, :2].T), np.linalg.norm((ring - middle)[:, :2], axis=1)
        turn = np.linspace(-np.pi, np.pi, 25)[:-1]
        apart = np.abs((angle - turn[:, None] + np.pi) % (2 * np.pi) - np.pi)  # (24, R)
        weight = np.exp(-((apart / 0.2) ** 2))
        reach = (weight * radius).sum(1) / weight.sum(1) + 0.003
        height = (weight * ring[:, 2]).sum(1) / weight.sum(1)
        around = np.stack([reach * np.sin(turn), reach * np.cos(turn), height], -1)  # (24, 3)
        around[:, :2] += middle[:2]
        return tube(around, 0.008, closed=True)

    def posed(self, weights: dict[str, float], gaze: Sequence[float], glasses: bool) -> np.ndarray:
        """The vertices (S + H, 3) of surfaces and strands with an expression and a direction of gaze.

        ``weights``: strengths of expressions, {name: 0..1}. ``gaze``: angles to the right and up, in degrees. Without
        ``glasses``, these are collapsed to a point inside the head.
        """
        vertices = self.rest.copy()
        shift = np.zeros((self.head_count, 3), np.float32)  # (V, 3)
        for name, weight in weights.items():
            shift += weight * self.expressions[self.names.index(name)]
        vertices[: self.head_count] += shift
        if weights:  # brows, lashes and beard move with the skin; hair on the scalp, which comes first, does not
            vertices[self.surface_count + self.still :] += (self.weights[..., None] * shift[self.roots]).sum(1)
        right, up = np.deg2rad(gaze)
        turn = rotation(right, up, 0)
        for eye, own in zip(self.eyes, self.eye_vertices, strict=True):
            vertices[own] = (vertices[own] - eye) @ turn.T + eye
        if not glasses:
            vertices[self.glasses] = self.eyes.mean(0) + np.float32([0, 0.05, 0])
        return vertices


def flat(name: str, count: int) -> np.ndarray:
    """Texture coordinates (count, 3, 2) of triangles in the block of one colour called ``name``."""
    return np.broadcast_to(np.float32([(SIDE + 64) / WIDTH, (FLATS[name] + 16) / SIDE]), (count, 3, 2))


def in_block(row: int, position: np.ndarray) -> np.ndarray:
    """Texture coordinates (..., 2) of positions (..., 2) in 0..1 in the block that begins at ``row``."""
    inside = 0.02 + 0.96 * np.clip(position, 0, 1)
    return np.stack([(SIDE + 16 + BLOCK * inside[..., 0]) / WIDTH, (row + 8 + BLOCK * inside[..., 1]) / SIDE], -1)


def make_texture(painter: Painter, person: Person, rng: np.random.Generator) -> np.ndarray:
    """The texture (SIDE, WIDTH, 4) of a person, linear RGB and gloss: that of the head, and the blocks beside it."""
    look = person.look
    texture = np.zeros((SIDE, WIDTH, 4), np.float32)
    texture[:, :SIDE], eye = painter.paint(person.look, rng)
    texture[:, SIDE : SIDE + 8] = texture[:, SIDE - 1 : SIDE]  # for interpolation at the seam
    columns = slice(SIDE + 16, SIDE + 16 + BLOCK)
    texture[EYES + 8 : EYES + 8 + BLOCK, columns] = eye
    position = np.arange(BLOCK) / BLOCK
    beard = (position > 0.64)[:, None]
    colour = np.where(beard, look["beard_colour"], look["hair_colour"])  # (BLOCK, 3)
    shade = 1 + 0.16 * rng.standard_normal((BLOCK, 1)) + 0.5 * (((position / 0.64) % 1)[:, None] - 0.5)
    colour = colour * shade.clip(0.3, 1.8)
    tip = (0.75 + 0.5 * position)[:, None, None]  # (BLOCK, 1, 1): along the strand
    hair = texture[HAIR : HAIR + 120, SIDE + 8 :]
    hair[...] = np.append(look["hair_colour"], 1.0)
    texture[HAIR + 8 : HAIR + 8 + BLOCK, columns, :3] = (colour[None] * tip).clip(0.004, 1)
    for name, rgb, gloss in (
        ("frame", look["frame"], 0.5), ("cloth", 0.1, 0.0), ("inner", INNER, 0.05), ("lash", 0.012, 0.1),
    ):  # fmt: skip
        rows = slice(FLATS[name], FLATS[name] + 32)
        texture[rows, SIDE + 8 :, :3], texture[rows, SIDE + 8 :, 3] = rgb, gloss
    return texture


def tube(points: np.ndarray, radius: float, closed: bool = False, sides: int = 5) -> Mesh:
    """A tube with a polygonal cross section of ``sides`` sides along points (P, 3)."""
    along = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    if not closed:
        along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    along = along / np.linalg.norm(along, axis=1, keepdims=True).clip(1e-9)
    helper = np.where(np.abs(along[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(along, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True).clip(1e-9)
    second = np.cross(along, first)
    turn = np.linspace(0, 2 * np.pi, sides + 1)[:-1]
    ring = np.cos(turn)[None, :, None] * first[:, None] + np.sin(turn)[None, :, None] * second[:, None]
    vertices = (points[:, None] + radius * ring).reshape(-1, 3)  # (P, sides, 3) -> (P * sides, 3)
    count = len(points)
    faces = []
    for i in range(count if closed else count - 1):
        j = (i + 1) % count
        for k in range(sides):
            m = (k + 1) % sides
            faces += [[i * sides + k, j * sides + k, i * sides + m], [i * sides + m, j * sides + k, j * sides + m]]
    return Mesh(vertices.astype(np.float32), np.array(faces))
