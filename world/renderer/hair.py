"""Strands of hair on a person's head: hair styles, brows, lashes and beard.

A strand is a polyline that is rendered as a ribbon facing the camera. It is about a millimetre wide and stands for a
few real hairs, so that some thousands of strands cover a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from world.renderer.head import Head, vertex_normals
from world.renderer.regions import Look, Regions, angle_of, smooth

Field = Callable[[np.ndarray], np.ndarray]  # a function of positions (S, 3) on the average head
Comb = Literal["forward", "back", "side", "parted", "out"]
HairKind = Literal["hair", "beard", "lash"]  # the part of the texture that colours a strand


@dataclass
class Cut:
    """A hair style.

    ``length`` and ``thickness``: ranges of the length of strands and the thickness of the hair, in metres. ``points``:
    points of a strand. ``count``: number of strands. ``lift``: weight of the direction away from the skin at the root.
    ``comb``: direction of the hair on the top of the head; "out" is away from the head. ``half_width``: in metres.
    """

    length: tuple[float, float]
    thickness: tuple[float, float]
    points: int
    count: int
    lift: float
    comb: Comb
    half_width: float = 0.0006


CUTS = {
    "buzz": Cut((0.003, 0.007), (0.001, 0.002), 2, 3600, 0.8, "forward", 0.0005),
    "crop": Cut((0.014, 0.028), (0.004, 0.010), 4, 3700, 0.8, "forward"),
    "side": Cut((0.035, 0.060), (0.006, 0.014), 6, 3000, 0.5, "side"),
    "quiff": Cut((0.030, 0.050), (0.010, 0.020), 6, 3000, 1.0, "back"),
    "swept": Cut((0.060, 0.100), (0.005, 0.012), 7, 3200, 0.35, "back"),
    "curls": Cut((0.030, 0.055), (0.015, 0.030), 9, 2400, 0.9, "out"),
    "afro": Cut((0.025, 0.060), (0.020, 0.050), 7, 3200, 2.0, "out"),
    "medium": Cut((0.080, 0.130), (0.006, 0.014), 8, 2700, 0.3, "parted", 0.0007),
    "bob": Cut((0.150, 0.190), (0.006, 0.014), 9, 2300, 0.25, "parted", 0.0010),
    "long": Cut((0.220, 0.260), (0.006, 0.014), 10, 2100, 0.25, "parted", 0.0011),
    "tied": Cut((0.120, 0.160), (0.002, 0.005), 8, 3200, 0.1, "back", 0.0007),
}


@dataclass
class Strands:
    """S strands of P points each.

    ``points`` (S, P, 3) in metres; ``normals`` (S, P, 3) for the shading; ``half_width`` (S, P) in metres; ``open``
    (S, P): ambient visibility in 0..1. A root is the mean, with ``weights`` (S, 3), of the vertices ``roots`` (S, 3) of
    the head. ``shade`` (S,): column of the texture that colours the strand, in 0..1.
    """

    points: np.ndarray
    normals: np.ndarray
    half_width: np.ndarray
    open: np.ndarray
    roots: np.ndarray
    weights: np.ndarray
    shade: np.ndarray


def unit(v: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to unit length."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True).clip(1e-9)


class Hairdresser:
    """Makes the strands on a person's head, whose vertices (V, 3) correspond to those of the average ``head``."""

    def __init__(self, head: Head, regions: Regions, vertices: np.ndarray, rng: np.random.Generator):
        self.head, self.regions, self.vertices, self.rng = head, regions, vertices, rng
        self.skin = head.faces[~(head.eye_faces | head.inner_faces)]
        self.normals = vertex_normals(vertices, head.faces)
        self.outside = np.unique(self.skin)
        self.tree = cKDTree(vertices[self.outside])
        corners = vertices[self.skin]  # (F, 3, 3)
        self.area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        own = [vertices[np.unique(head.faces[head.eye_faces & (head.vertices[head.faces[:, 0], 0] * s > 0)])]
               for s in (1, -1)]  # fmt: skip
        self.eye = np.mean([(v.max(0) + v.min(0)) / 2 for v in own], 0)
        top = head.vertices[:, 2].max() - regions.eye[2]
        self.scale = top / (vertices[:, 2].max() - self.eye[2])

    def template(self, points: np.ndarray) -> np.ndarray:
        """The approximate positions on the average head of points (..., 3) of this head."""
        return (points - self.eye) * self.scale + np.float32([0, *self.regions.eye[1:]])

    def roots(self, density: Field, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw roots as vertices (S, 3) and their weights (S, 3).

        ``density`` (0..1) is the probability that each of ``count`` candidates, uniform on the skin, is kept.
        """
        centre = density(self.head.vertices[self.skin].mean(1))
        share = self.area * (centre > 0.01) * (self.head.ears[self.skin].max(1) < 0.5)
        if not share.any():
            return np.zeros((0, 3), int), np.zeros((0, 3), np.float32)
        face = self.rng.choice(len(share), count, p=share / share.sum())
        a, b = np.sqrt(self.rng.random(count)), self.rng.random(count)
        weights = np.stack([1 - a, a * (1 - b), a * b], -1).astype(np.float32)  # (count, 3), uniform on a triangle
        position = (self.head.vertices[self.skin[face]] * weights[..., None]).sum(1)  # (count, 3)
        stays = self.rng.random(count) < density(position)
        return self.skin[face[stays]], weights[stays]

    def keep_out(self, points: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Move points (S, 3) to at least ``distance`` (S,) metres from the skin.

        Returns the points, the normals of the skin (S, 3), and the distances from it (S,).
        """
        _, near = self.tree.query(points)
        near = self.outside[near]
        normal = self.normals[near]
        gap = ((points - self.vertices[near]) * normal).sum(-1)
        return points + normal * (distance - gap).clip(0)[:, None], normal, np.maximum(gap, distance)

    def scalp(self, look: Look) -> Strands:
        """The hair on the scalp."""
        cut, rng = CUTS[look["cut"]], self.rng
        roots, weights = self.roots(lambda p: self.regions.scalp(look, p), int(cut.count * 1.25))
        count = len(roots)
        start = (self.vertices[roots] * weights[..., None]).sum(1)
        normal = unit((self.normals[roots] * weights[..., None]).sum(1))
        position = (self.head.vertices[roots] * weights[..., None]).sum(1)  # (S, 3): roots on the average head
        length = look["length"] * rng.uniform(0.9 if cut.comb == "parted" else 0.7, 1.05, count)
        fringe = np.zeros(count)
        if look["fringe"]:
            front = smooth(0.048 - np.abs(position[:, 0]), 0, 0.014) * smooth(-0.055 - position[:, 1], 0, 0.02)
            fringe = (rng.random(count) < front).astype(np.float32)
            length = np.where(fringe > 0, look["fringe"] * rng.uniform(0.85, 1.05, count), length)
        if cut.comb in ("forward", "side", "back", "out") and look["cut"] not in ("tied", "afro", "curls", "swept"):
            side = smooth(angle_of(position), 55, 80) * smooth(0.765 - position[:, 2], 0, 0.02)
            length = length * (1 - look["fade"] * side)  # shorter hair on sides and back
        layer = look["thickness"] * rng.uniform(0.1, 1, count) ** 0.7
        points, normals = np.empty((2, count, cut.points, 3), np.float32)
        points[:, 0], normals[:, 0] = start, normal
        shares = np.linspace(0.5, 1.5, cut.points - 1) / (cut.points - 1)  # shorter steps near the root
        here, gap = start, np.zeros(count)
        heading = unit(self.comb(look, cut.comb, position, start, normal, gap, fringe) + cut.lift * normal)
        wild = look["wild"] * rng.standard_normal((count, 3))
        for k in range(1, cut.points):
            t, step = k / (cut.points - 1), (shares[k - 1] * length)[:, None]
            here = here + step * heading
            here, normal, gap = self.keep_out(here, layer * min(1, k / 2) + 0.0006)
            if cut.comb == "parted":
                here = self.off_face(look, here, fringe, step)
            points[:, k] = here
            radial = here - np.float32([0, self.eye[1] + 0.075, self.eye[2] + 0.01])
            radial[:, 2] = radial[:, 2].clip(0)
            normals[:, k] = unit(normal * smooth(0.03 - gap, 0, 0.02)[:, None] + unit(radial))
            flow = self.comb(look, cut.comb, position, here, normal, gap, fringe)
            lift = cut.lift * (1 - t) ** 2 * normal
            heading = unit(
                0.7 * heading
                + 0.6 * flow
                + 0.5 * lift
                + (0.08 if cut.comb == "parted" else 0.2) * wild
                + 0.08 * rng.standard_normal((count, 3))
            )
        points = self.curled(look, points)
        depth = layer / max(look["thickness"], 1e-6)  # 1 at the outer surface of the hair
        along = np.linspace(0, 1, cut.points)[None]
        open_ = (0.42 + 0.58 * depth[:, None]) * (0.6 + 0.4 * along)
        taper = (
            cut.half_width
            * rng.uniform(0.7, 1.3, (count, 1))
            * (1 - 0.6 * along**3)
            * (0.5 + 0.5 * smooth(along, 0, 0.4))
        )
        return Strands(points, normals, taper, open_, roots, weights, self.shades(points))

    def shades(self, points: np.ndarray) -> np.ndarray:
        """Columns of the texture (S,) in 0..1, similar for neighbouring strands (S, P, 3), as in locks."""
        lock = np.sin(points[:, 0] @ self.rng.normal(0, 260, (3, 4))).mean(-1)
        return (0.5 + 0.22 * lock + 0.18 * self.rng.standard_normal(len(points))).clip(0, 1)

    def curled(self, look: Look, points: np.ndarray) -> np.ndarray:
        """Strands (S, P, 3) pulled together into locks, then curled or waved."""
        count, length = points.shape[:2]
        if length < 4 or not count:
            return points
        guides = self.rng.choice(count, max(1, count // 14), replace=False)
        _, nearest = cKDTree(points[guides, 0]).query(points[:, 0])
        guide = points[guides[nearest]]
        t = np.linspace(0, 1, length)[None, :, None]
        points = points + look["locks"] * t * (guide - points + 0.45 * (points[:, :1] - guide[:, :1]))
        if look["curl"] > 0:
            way = np.cumsum(np.linalg.norm(np.diff(points, axis=1, prepend=points[:, :1]), axis=-1), 1)  # (S, P)
            turn = way * look["curl_rate"] + self.rng.uniform(0, 6.28, len(guides))[nearest][:, None]
            turn = turn + 0.5 * self.rng.standard_normal((count, 1))
            along = unit(np.gradient(points, axis=1))
            first = unit(np.cross(along, np.float32([0.3, 1, 0.2])))
            second = np.cross(along, first)
            size = look["curl"] * smooth(way, 0, 0.03)[..., None]  # (S, P, 1)
            points = points + size * (np.cos(turn)[..., None] * first + np.sin(turn)[..., None] * second)
        return points.astype(np.float32)

    def off_face(self, look: Look, points: np.ndarray, fringe: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Move points (S, 3) in front of the face aside by at most ``reach`` (S, 1), unless ``fringe`` (S,) is 1."""
        q = self.template(points)  # (S, 3)
        line = self.regions.hair_line(look, angle_of(q))
        inside = smooth(-0.05 - q[:, 1], 0, 0.02) * smooth(line - 0.004 - q[:, 2], 0, 0.015) * (fringe == 0)
        side = np.where(points[:, 0] < look["part"], -1, 1)
        lack = (look["opening"] - side * points[:, 0]).clip(0, None)
        points = points.copy()
        points[:, 0] += side * inside * np.minimum(lack, reach[:, 0])
        return points

    def comb(
        self,
        look: Look,
        kind: Comb,
        position: np.ndarray,
        here: np.ndarray,
        normal: np.ndarray,
        gap: np.ndarray,
        fringe: np.ndarray,
    ) -> np.ndarray:
        """The direction (S, 3) of hair at the points ``here`` (S, 3), tangential to the skin where it lies on it.

        ``position`` (S, 3): roots on the average head. ``normal`` (S, 3) and ``gap`` (S,): normal of the skin, and
        distance from it in metres. ``fringe`` (S,): 1 for strands of the fringe.
        """
        q = self.template(here)  # (S, 3)
        front = smooth(angle_of(q), 78, 55)
        top = np.maximum(smooth(q[:, 2], 0.735, 0.785), front)[:, None]
        aside = np.sign(position[:, 0] - look["part"])[:, None]
        away = unit(q - np.float32([0.006, 0.025, 0.82]))
        down = np.float32([0, 0.18, -1])
        x, y, z = np.float32(np.eye(3))
        if kind == "forward":
            over = away - 0.8 * y
        elif kind == "back":
            over, down = 1.2 * y - 0.1 * z, np.float32([0, 0.75, -0.6])
        elif kind == "side":
            over = -np.sign(look["part"]) * x - 0.35 * y
            over = np.where(aside == -np.sign(look["part"]), over, -over * [1, 0.5, 1])
        elif kind == "parted":
            over = aside * x + (0.35 + 0.5 * front[:, None]) * y - 0.25 * z
            down = np.float32([0, 0.12, -1])
        else:
            over, down = 1.6 * normal, 1.6 * normal + 0.5 * down
        flow = top * over + (1 - top) * down
        flow = np.where(fringe[:, None] > 0, -0.6 * y - 0.7 * z + 0.25 * x * np.sign(look["part"]), flow)
        if kind != "out":
            into = (flow * normal).sum(-1, keepdims=True) * normal
            flow = unit(flow - into * smooth(0.03 - gap, 0, 0.02)[:, None])
        free = smooth(gap, 0.02, 0.05)[:, None] if kind == "parted" else 0.0
        return flow * (1 - free) + np.float32([0, 0.02, -1]) * free

    def short(
        self, density: Field, count: int, length: float, flow: Field, lift: float, half_width: float, points: int = 3
    ) -> Strands:
        """Strands of brows or beard, which bend towards the directions ``flow(positions)`` (S, 3).

        ``density`` and ``count``: see ``roots``. ``length`` and ``half_width`` in metres. ``lift``: slope of
        a strand away from the skin at its root.
        """
        roots, weights = self.roots(density, count)
        start = (self.vertices[roots] * weights[..., None]).sum(1)
        normal = unit((self.normals[roots] * weights[..., None]).sum(1))
        position = (self.head.vertices[roots] * weights[..., None]).sum(1)
        ahead = flow(position) + 0.25 * self.rng.standard_normal(position.shape)
        ahead = unit(ahead - (ahead * normal).sum(-1, keepdims=True) * normal)
        t = np.linspace(0, 1, points)[None, :, None]
        reach = (length * self.rng.uniform(0.6, 1.1, len(roots)))[:, None, None]
        path = start[:, None] + reach * (t * ahead[:, None] + lift * t * (1 - 0.6 * t) * normal[:, None])
        path = path + np.float32([0, 0, -0.25]) * reach * t**2 * (length > 0.008)  # long strands hang down
        width = half_width * self.rng.uniform(0.7, 1.3, (len(roots), 1)) * (1 - 0.6 * t[..., 0] ** 2)
        open_ = 0.55 + 0.45 * np.broadcast_to(t[..., 0], width.shape)
        normals = np.repeat(normal[:, None], points, 1)
        return Strands(path, normals, width, open_, roots, weights, self.shades(path))

    def all(self, look: Look) -> list[tuple[HairKind, Strands]]:
        """All strands of the person, by kind; brows are coloured like the beard."""
        sets = []
        if look["cut"] in CUTS:
            sets.append(("hair", self.scalp(look)))

        def side(p: np.ndarray) -> np.ndarray:
            return np.sign(p[:, :1])  # (S, 1)

        brows = self.short(
            lambda p: self.regions.brows(look, p), int(800 * look["brow_strength"]), 0.0070,
            lambda p: side(p) * [1, 0, 0] + [0, 0, 0.5] * smooth(0.03 - np.abs(p[:, :1]), -0.004, 0.012) - [0, 0, 0.1],
            0.2, 0.00026,
        )  # fmt: skip
        sets.append(("beard", brows))
        if look["beard_length"] > 0:
            for grows, count, flow in (
                (self.regions.beard, 3200, lambda p: side(p) * [0.15, 0, 0] + [0, -0.25, -1]),
                (self.regions.moustache, 700, lambda p: side(p) * [0.8, 0, 0] + [0, 0, -0.6]),
            ):
                length = min(look["beard_length"], 0.011) if grows == self.regions.moustache else look["beard_length"]
                dense = lambda p, grows=grows: grows(look, p) * look["beard"]  # noqa: E731
                sets.append(("beard", self.short(dense, count, length, flow, 0.5, 0.00048, 4)))
        sets.append(("lash", self.lashes(look)))
        return [(kind, strands) for kind, strands in sets if len(strands.roots)]

    def lashes(self, look: Look) -> Strands:
        """Lashes along the edges of the upper lids."""
        roots, weights = [], []
        for side, eye in zip((1, -1), self.head.eyes, strict=True):
            edge = self.lid_edge(eye, upper=True)
            edge = edge[np.argsort(self.head.vertices[edge, 0] * side)]
            count = int(26 * look["lashes"])
            where = self.rng.uniform(0.15, 1, count) * (len(edge) - 1)
            k = where.astype(int).clip(0, len(edge) - 2)
            roots.append(np.stack([edge[k], edge[k + 1], edge[k + 1]], -1))  # (count, 3)
            weights.append(np.stack([1 - (where - k), where - k, 0 * where], -1).astype(np.float32))  # (count, 3)
        roots, weights = np.concatenate(roots), np.concatenate(weights)
        start = (self.vertices[roots] * weights[..., None]).sum(1)
        out = np.sign(start[:, :1]) * np.float32([1, 0, 0])
        aside = (np.abs(start[:, :1]) - np.abs(self.eye[0]) - self.regions.eye_x) / 0.015
        ahead = unit(np.float32([0, -1, -0.15]) + 0.5 * out * aside + 0.1 * self.rng.standard_normal(start.shape))
        t = np.linspace(0, 1, 3)[None, :, None]
        length = 0.0065 * look["lashes"]
        path = start[:, None] + length * (t * ahead[:, None] + np.float32([0, 0, 0.8]) * t**2)
        width = 0.00035 * (1 - 0.6 * np.broadcast_to(t[..., 0], path.shape[:2]))
        normals = np.broadcast_to(np.float32([0, -1, 0]), path.shape)
        return Strands(path, normals, width, np.ones(path.shape[:2]), roots, weights, np.full(len(path), 0.5))

    def lid_edge(self, eye: np.ndarray, upper: bool) -> np.ndarray:
        """Indices of the vertices at the edge of the upper or lower lid of an eye with centre ``eye`` (3,)."""
        inner = np.unique(self.head.faces[self.head.inner_faces])
        edge = np.intersect1d(inner, np.unique(self.head.faces[~(self.head.inner_faces | self.head.eye_faces)]))
        offset = self.head.vertices[edge] - eye
        near = (np.linalg.norm(offset, axis=1) < 0.024) & (offset[:, 1] < 0)
        return edge[near & ((offset[:, 2] > 0.001) if upper else (offset[:, 2] < -0.001))]
