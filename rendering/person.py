"""Who a rendered person is: bones, skin, hair; and the extra meshes of hair and glasses.

Everything of a person comes from (seed, identity), so it is the same on all photos. The population is uniform over
sex, broad over age (young adult to old), ancestry and skin tone, and independent otherwise: no group is the default.
"""

from dataclasses import dataclass

import numpy as np

from rendering.head import SIDE
from rendering.paint import GREY, HAIR, IRIS, ramp

WIDTH = SIDE + 128  # of the texture: the head's own, then a column of blocks
EYES, HAIR_BLOCK, FLAT = 0, 128, 256  # rows of the blocks
BLOCK = 96
AGES = (0.64, 0.99)  # of the model: a young adult, an old one
SPREAD = 0.45  # standard deviation of a shape parameter


@dataclass
class Person:
    """``vertices`` (V, 3) of the bare head, ``look``: what painter and hairdresser read, ``label``: what is known."""

    vertices: np.ndarray
    look: dict
    label: dict


def stream(seed, *key):
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def make_person(model, seed, identity):
    """The person of a number."""
    rng = stream(seed, identity)
    gender = float(np.clip(rng.choice([0.12, 0.88]) + 0.1 * rng.standard_normal(), 0, 1))  # 1: male
    age = float(rng.uniform(*AGES))
    ancestry = rng.dirichlet([0.45, 0.45, 0.45])
    weight = float(np.clip(0.5 + 0.2 * rng.standard_normal(), 0.05, 0.95))
    phenotypes = {"gender": gender, "age": age, "weight": weight, "muscle": float(rng.uniform(0.3, 0.8))}
    phenotypes |= dict(zip(("african", "asian", "caucasian"), map(float, ancestry), strict=True))
    maturity = (age - AGES[0]) / (AGES[1] - AGES[0])  # 0..1
    vertices = model.vertices_of(phenotypes, make_shapes(model.head.shape_names, rng))
    look = make_look(rng, gender > 0.5, maturity, ancestry)
    label = {"sex": "male" if gender > 0.5 else "female", "age": round(20 + 55 * maturity)}
    label |= {"skin": round(float(look["melanin"]), 3), "hair": look["cut"]}
    return Person(vertices, look, label)


def make_shapes(names, rng):
    """{parameter: -1..1}; left and right differ by a little, as faces do."""
    shared = {}
    shapes = {}
    for name in names:
        sided = name[:2] in ("l-", "r-")
        key = name[2:] if sided else name
        if key not in shared:
            shared[key] = SPREAD * rng.standard_normal()
        strength = 0.4 if key.startswith(("neck", "measure", "head-angle")) or "trans-out" in key else 1.0
        shapes[name] = float(np.clip(strength * (shared[key] + (0.08 * rng.standard_normal() if sided else 0)), -1, 1))
    return shapes


def make_look(rng, male, age, ancestry):
    """Numbers and colours; ``age`` 0..1."""
    african, asian, caucasian = ancestry
    melanin = np.clip(0.9 * african + 0.36 * asian + 0.14 * caucasian + 0.12 * rng.standard_normal(), 0, 1)
    dark_hair = african + asian > rng.uniform(0.2, 0.9)
    hair = ramp(HAIR[:3] if dark_hair else HAIR, rng.uniform(0, 0.4) if dark_hair else rng.uniform(0, 1))
    grey = float(np.clip((age - 0.45) * 2 + 0.25 * rng.standard_normal(), 0, 1)) if rng.random() < 0.8 else 0.0
    bald = male and rng.random() < 0.25 + 0.3 * age
    cuts = (
        ["bald", "buzz", "short", "short", "medium", "afro"]
        if male
        else ["short", "medium", "bob", "long", "long", "afro"]
    )
    cut = str(rng.choice(["bald", "buzz", "short"] if bald else cuts))
    bearded = male and rng.random() < 0.55
    full = rng.random(3)
    light_eyes = melanin < 0.35 and rng.random() < 0.6
    return {
        "melanin": float(melanin),
        "tint": (0.06 * rng.standard_normal(3)).astype(np.float32),
        "shine": float(rng.uniform(0.02, 0.10)),
        "flush": float(rng.uniform(0.1, 0.9) * (1 - 0.6 * melanin)),
        "freckles": float((rng.random() < 0.22) * rng.uniform(0.4, 1) * (melanin < 0.5)),
        "moles": [
            (rng.uniform(-0.06, 0.06), rng.uniform(0.61, 0.76), rng.uniform(0.0008, 0.002))
            for _ in range(rng.integers(0, 4))
        ],
        "wrinkles": float(np.clip(age * 1.2 - 0.15 + 0.2 * rng.standard_normal(), 0, 1)),
        "lipstick": float(rng.uniform(0.3, 0.9)) if not male and rng.random() < 0.35 else 0.0,
        "lip_tint": np.float32([rng.uniform(0.25, 0.55), rng.uniform(0.03, 0.12), rng.uniform(0.05, 0.15)]),
        "eye_shadow": float(rng.uniform(0.2, 0.6)) if not male and rng.random() < 0.3 else 0.0,
        "hair_colour": hair * (1 - grey) + GREY * grey,
        "cut": cut,
        "hair_cover": {"bald": 0.12, "buzz": 0.75}.get(cut, 0.97),
        "hairline": float(rng.uniform(0.045, 0.066) + (0.02 * age if bald else 0)),
        "recession": float(rng.uniform(0, 0.02) + (0.03 * rng.random() if bald else 0)),
        "thickness": {
            "bald": 0.0,
            "buzz": 0.001,
            "short": 0.008,
            "medium": 0.017,
            "afro": 0.038,
            "bob": 0.012,
            "long": 0.012,
        }[cut]
        * float(rng.uniform(0.7, 1.3)),
        "length": {"bob": 0.0, "long": 0.14}.get(cut, -1.0) + float(rng.uniform(-0.01, 0.04)),
        "brow_height": float(rng.uniform(0.016, 0.023)),
        "brow_arch": float(rng.uniform(-0.001, 0.005)),
        "brow_tilt": float(rng.uniform(-0.12, 0.12)),
        "brow_thickness": float(rng.uniform(0.0022, 0.0058) if male else rng.uniform(0.0015, 0.004)),
        "brow_gap": float(rng.uniform(0.004, 0.014)),
        "brow_strength": float(rng.uniform(0.55, 0.95)),
        "beard": float(rng.choice([0.3, 0.55, 0.95])) if bearded else (float(rng.uniform(0, 0.12)) if male else 0.0),
        "beard_shape": (float(full[0] < 0.85), float(full[1] < 0.6), float(full[2] < 0.8))
        if bearded
        else (1.0, 1.0, 1.0),
        "iris": ramp(IRIS, rng.uniform(0.4, 1) if light_eyes else rng.uniform(0, 0.3)),
        "frame": np.float32(rng.choice([0.01, 0.03, 0.2])) * np.float32([1, rng.uniform(0.7, 1), rng.uniform(0.5, 1)]),
        "frame_size": (float(rng.uniform(0.021, 0.028)), float(rng.uniform(0.014, 0.024))),
        "wears_glasses": float(rng.choice([0.0, 0.05, 0.9], p=[0.5, 0.3, 0.2])),
    }


class Figure:
    """Head, hair and glasses of a person as one mesh.

    ``faces`` (F, 3), ``uv`` (F, 3, 2); ``rest`` (V, 3) without expression; ``glasses``: the slice of its vertices.
    """

    def __init__(self, model, painter, person, rng):
        head = model.head
        scalp = painter.scalp(person.look, position=head.vertices) * (1 - painter.vertex_ears)  # (V,)
        scalp = spread_over(scalp, head.faces, len(head.vertices), rounds=4)
        middle = np.float32([0, person.vertices[:, 1].mean(), head.eyes[0, 2]])
        outward = person.vertices - middle
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)  # (V, 3)
        lumps = 1 + 0.12 * np.sin(head.vertices @ rng.normal(0, 120, (3, 3)) + rng.uniform(0, 6, 3)).mean(1)
        volume = person.look["thickness"] * scalp * lumps
        self.head_count = len(person.vertices)
        self.expressions, self.names = head.expressions, head.expression_names
        self.eyes = self._eyes(person.vertices, head)
        self.landmarks = head.landmarks
        pieces = [(person.vertices + outward * volume[:, None], head.faces, self._head_uv(person.vertices, head))]
        if person.look["length"] > -0.5:
            pieces.append(self._long_hair(person, rng))
        self.glasses = slice(sum(len(v) for v, *_ in pieces), None)
        pieces.append(self._glasses(person))
        starts = np.cumsum([0] + [len(v) for v, *_ in pieces])
        self.rest = np.concatenate([v for v, *_ in pieces]).astype(np.float32)
        self.faces = np.concatenate([f + s for (_, f, _), s in zip(pieces, starts, strict=False)])
        self.uv = np.concatenate([uv for *_, uv in pieces]).astype(np.float32)
        self.eye_vertices = [np.unique(head.faces[head.eye_faces & side]) for side in self._sides(head)]

    @staticmethod
    def _sides(head):
        left = head.vertices[head.faces[:, 0], 0] > 0
        return left, ~left

    @staticmethod
    def _eyes(vertices, head):
        """(2, 3) centres of the eyeballs, left first."""
        sides = Figure._sides(head)
        own = [vertices[np.unique(head.faces[head.eye_faces & side])] for side in sides]
        return np.stack([(v.max(0) + v.min(0)) / 2 for v in own])

    def _head_uv(self, vertices, head):
        uv = head.uv * np.float32([SIDE / WIDTH, 1])
        for eye, side in zip(self.eyes, self._sides(head), strict=True):
            chosen = head.eye_faces & side
            corners = vertices[head.faces[chosen]]  # (F, 3, 3)
            radius = np.abs(corners - eye)[..., 0].max()
            flat = (corners - eye)[..., [0, 2]] / radius * [0.5, -0.5] + 0.5  # seen from the front
            uv[chosen] = in_block(EYES, flat)
        return uv

    def _long_hair(self, person, rng):
        """A curtain round the head, open at the face: (vertices, faces, uv)."""
        v = person.vertices
        centre = np.float32([0, (v[:, 1].max() + v[:, 1].min()) / 2 + 0.012, self.eyes[0, 2] + 0.01])
        above = v[v[:, 2] > centre[2] - 0.02] - centre
        reach = np.abs(above).max(0) + person.look["thickness"] + 0.004  # half axes of the skull with hair on
        columns, rows = 56, 30
        opening = np.deg2rad(rng.uniform(48, 66))
        around = np.linspace(opening, 2 * np.pi - opening, columns)
        bottom = centre[2] - 0.075 - person.look["length"]
        elevation = np.deg2rad(np.linspace(85, 0, rows // 2))
        hang = np.linspace(0, 1, rows - rows // 2 + 1)[1:]
        wave = 1 + 0.03 * np.sin(around * rng.integers(9, 17) + rng.uniform(0, 6)) + 0.02 * rng.standard_normal(columns)
        rings = [
            np.stack([reach[0] * np.cos(e) * np.sin(around) * wave, -reach[1] * np.cos(e) * np.cos(around) * wave,
                      np.full(columns, reach[2] * np.sin(e))], -1) + centre
            for e in elevation
        ]  # fmt: skip
        for h in hang:
            ring = rings[rows // 2 - 1].copy()
            ring[:, 2] = centre[2] + h * (bottom - centre[2]) * (1 + 0.03 * rng.standard_normal(columns))
            ring[:, :2] = (ring[:, :2] - centre[:2]) * (1 - 0.12 * h + 0.1 * h * h) * (
                1 + 0.01 * rng.standard_normal((columns, 1))
            ) + centre[:2]
            rings.append(ring)
        grid = np.arange(len(rings) * columns).reshape(len(rings), columns)
        a, b, c, d = grid[:-1, :-1].ravel(), grid[:-1, 1:].ravel(), grid[1:, :-1].ravel(), grid[1:, 1:].ravel()
        faces = np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)])
        place = np.stack(np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, len(rings))), -1).reshape(-1, 2)
        return np.concatenate(rings), faces, in_block(HAIR_BLOCK, place[faces])

    def _glasses(self, person):
        wide, high = person.look["frame_size"]
        turn = np.linspace(0, 2 * np.pi, 25)[:-1]
        pieces = []
        front = person.vertices[self.landmarks["nose"], 1] + 0.022
        for eye, side in zip(self.eyes, (1, -1), strict=True):
            centre = np.float32([eye[0] + 0.002 * side, front, eye[2] - 0.004])
            square = (np.abs(np.cos(turn)) ** 4 + np.abs(np.sin(turn)) ** 4) ** -0.25
            ring = centre + np.stack([wide * np.cos(turn) * square, 0 * turn, high * np.sin(turn) * square], -1)
            pieces.append(tube(ring, 0.0014, closed=True))
            hinge = centre + np.float32([side * wide, 0, 0.004])
            ear = np.float32([side * (np.abs(person.vertices[:, 0]).max() - 0.012), 0.01, eye[2] + 0.002])
            pieces.append(tube(np.stack([hinge, hinge * 0.45 + ear * 0.55, ear]), 0.0014))
        bridge = np.float32(
            [
                [self.eyes[1, 0] + wide, front, eye[2]],
                [0, front - 0.002, eye[2] + 0.003],
                [self.eyes[0, 0] - wide, front, eye[2]],
            ]
        )
        pieces.append(tube(bridge, 0.0012))
        starts = np.cumsum([0] + [len(v) for v, _ in pieces])
        vertices = np.concatenate([v for v, _ in pieces])
        faces = np.concatenate([f + s for (_, f), s in zip(pieces, starts, strict=False)])
        return vertices, faces, in_block(FLAT, np.full((len(faces), 3, 2), 0.5))

    def posed(self, weights, gaze, glasses):
        """(V, 3) with an expression {name: 0..1}, eyes turned by ``gaze`` (right, up; degrees), glasses on or off."""
        vertices = self.rest.copy()
        for name, weight in weights.items():
            vertices[: self.head_count] += weight * self.expressions[self.names.index(name)]
        right, up = np.deg2rad(gaze)
        turn = rotation(right, up, 0)
        for eye, own in zip(self.eyes, self.eye_vertices, strict=True):
            vertices[own] = (vertices[own] - eye) @ turn.T + eye
        if not glasses:
            vertices[self.glasses] = self.eyes.mean(0) + np.float32([0, 0.05, 0])  # folded up inside the head
        return vertices


def spread_over(values, faces, count, rounds):
    """Values of vertices (V,), evened out between neighbours."""
    for _ in range(rounds):
        means = values[faces].mean(1)  # (F,)
        total, weight = np.zeros(count), np.zeros(count)
        for corner in range(3):
            total += np.bincount(faces[:, corner], means, minlength=count)
            weight += np.bincount(faces[:, corner], minlength=count)
        values = total / weight.clip(1)
    return values


def in_block(row, place):
    """Texture coordinates of places (..., 2) in 0..1 of a block."""
    inside = 0.02 + 0.96 * np.clip(place, 0, 1)
    return np.stack([(SIDE + 16 + BLOCK * inside[..., 0]) / WIDTH, (row + 8 + BLOCK * inside[..., 1]) / SIDE], -1)


def make_texture(painter, person, rng):
    """(SIDE, WIDTH, 4): the head's texture and the blocks beside it."""
    texture = np.zeros((SIDE, WIDTH, 4), np.float32)
    texture[:, :SIDE], eye = painter.paint(person, rng)
    rows = slice(8, 8 + BLOCK)
    columns = slice(SIDE + 16, SIDE + 16 + BLOCK)
    texture[rows, columns] = eye
    strands = (
        0.75
        + 0.25 * np.repeat(rng.standard_normal((1, BLOCK, 1)), BLOCK, 0)
        + 0.08 * rng.standard_normal((BLOCK, BLOCK, 1))
    )
    hair = texture[HAIR_BLOCK : HAIR_BLOCK + 120, SIDE:]
    hair[...] = np.append(person.look["hair_colour"] * 0.7, 0.15)
    texture[HAIR_BLOCK + 8 : HAIR_BLOCK + 8 + BLOCK, columns, :3] = (person.look["hair_colour"] * strands).clip(
        0.003, 1
    )
    texture[FLAT : FLAT + 120, SIDE:] = np.append(person.look["frame"], 0.6)
    return texture


def tube(points, radius, closed=False, sides=5):
    """A tube along points (P, 3): (vertices, faces)."""
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
    vertices = (points[:, None] + radius * ring).reshape(-1, 3)
    count = len(points)
    faces = []
    for i in range(count if closed else count - 1):
        j = (i + 1) % count
        for k in range(sides):
            m = (k + 1) % sides
            faces += [[i * sides + k, j * sides + k, i * sides + m], [i * sides + m, j * sides + k, j * sides + m]]
    return vertices.astype(np.float32), np.array(faces)


def rotation(yaw, pitch, roll):
    """(3, 3) for the model's axes, radians: yaw to the image's right, pitch up, roll clockwise in the image."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])  # of (0, -1, 0), the nose, to (sin, -cos, 0)
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])  # of the nose to (0, -cos, sin)
    tilt = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return (tilt @ turn @ nod).astype(np.float32)
