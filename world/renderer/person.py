"""Random parameters of a person's appearance: shape of the head, skin, eyes and hair.

They depend on the seed and the identity only, so that they are the same in all photos. Both sexes are equally frequent,
and age (young adult to old), ancestry and skin tone vary widely; no group is the default.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from world.renderer.hair import CUTS
from world.renderer.head import HeadModel
from world.renderer.paint import GREY, HAIR, IRIS, ramp
from world.renderer.regions import Look

AGES = (0.64, 0.99)  # age parameter of the model for young and for old adults
SPREAD = 0.38  # standard deviation of a shape parameter
USUAL = {"eye-height": 0.3, "eye-scale": 0.25, "mouth-angles": 0.2}  # non-zero means of shape parameters


class Traits(NamedTuple):
    """The parameters of an identity: phenotypes 0..1 and shapes -1..1 of the head, by name, and the appearance."""

    phenotypes: dict[str, float]
    shapes: dict[str, float]
    look: Look


@dataclass
class Person:
    """A person: vertices (V, 3) of the head without hair, the appearance, and labels for the manifest."""

    vertices: np.ndarray
    look: Look
    label: dict[str, Any]


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random generator of a seed and a key such as (identity, image)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def draw_traits(model: HeadModel, seed: int, identity: int) -> Traits:
    """The parameters of the person with the number ``identity``."""
    rng = stream(seed, identity)
    gender = float(np.clip(rng.choice([0.06, 0.94]) + 0.08 * rng.standard_normal(), 0, 1))  # 1: male
    age = AGES[0] + (AGES[1] - AGES[0]) * float(rng.beta(1.0, 1.5))
    ancestry = rng.dirichlet([0.45, 0.45, 0.45])
    weight = float(np.clip(0.5 + 0.2 * rng.standard_normal(), 0.05, 0.95))
    phenotypes = {"gender": gender, "age": age, "weight": weight, "muscle": float(rng.uniform(0.3, 0.8))}
    phenotypes |= dict(zip(("african", "asian", "caucasian"), map(float, ancestry), strict=True))
    shapes = make_shapes(model.head.shape_names, rng)
    return Traits(phenotypes, shapes, make_look(rng, gender > 0.5, maturity_of(age), ancestry))


def person_of(model: HeadModel, traits: Traits) -> Person:
    """The person with these parameters."""
    phenotypes, shapes, look = traits
    label = {"sex": "male" if phenotypes["gender"] > 0.5 else "female"}
    label |= {"age": round(20 + 55 * maturity_of(phenotypes["age"]))}
    label |= {"skin": round(float(look["melanin"]), 3), "hair": look["cut"]}
    return Person(model.vertices_of(phenotypes, shapes), look, label)


def maturity_of(age: float) -> float:
    """The age parameter of the model -> 0 for a young adult to 1 for an old one."""
    return (age - AGES[0]) / (AGES[1] - AGES[0])


def make_shapes(names: Iterable[str], rng: np.random.Generator) -> dict[str, float]:
    """Random shape parameters {name: -1..1}; the left and right side of a face differ slightly."""
    shared = {}
    shapes = {}
    for name in names:
        sided = name[:2] in ("l-", "r-")
        key = name[2:] if sided else name
        if key not in shared:
            shared[key] = SPREAD * rng.standard_normal()
        strength = 0.4 if key.startswith(("neck", "measure", "head-angle")) or "trans-out" in key else 1.0
        if key in (
            "nose-scale-depth-incr",
            "nose-trans-forward",
            "nose-volume-incr",
            "nose-point-up",
            "nose-hump-incr",
        ):
            strength = 0.4  # together they would exaggerate the nose
        usual = next((value for start, value in USUAL.items() if key.startswith(start)), 0.0)
        shapes[name] = float(
            np.clip(usual + strength * (shared[key] + (0.08 * rng.standard_normal() if sided else 0)), -1, 1)
        )
    return shapes


def make_look(rng: np.random.Generator, male: bool, age: float, ancestry: np.ndarray) -> Look:
    """Random appearance, as numbers and linear RGB colours.

    ``age``: 0..1. ``ancestry`` (3,): African, Asian and Caucasian fractions.
    """
    african, asian, caucasian = ancestry
    melanin = float(np.clip(0.9 * african + 0.36 * asian + 0.14 * caucasian + 0.12 * rng.standard_normal(), 0, 1))
    grey = float(np.clip((age - 0.45) * 2 + 0.25 * rng.standard_normal(), 0, 1)) if rng.random() < 0.75 else 0.0
    light_eyes = melanin < 0.35 and rng.random() < 0.6
    yellow = 0.05 * rng.standard_normal()
    return {
        "melanin": melanin,
        "tint": np.float32([0.02 * rng.standard_normal(), 0, 0]) + np.float32([-0.3, 0, -1]) * np.float32(yellow),
        "shine": float(rng.uniform(0.06, 0.22)),
        "flush": float(rng.uniform(0.15, 0.9) * (1 - 0.6 * melanin)),
        "roughness": float(rng.uniform(0.3, 1.2)),
        "freckles": float((rng.random() < 0.22) * rng.uniform(0.4, 1) * (melanin < 0.5)),
        "age_spots": float(np.clip(age * 1.6 - 0.8, 0, 1) * rng.random()),
        "moles": [
            (rng.uniform(-0.06, 0.06), rng.uniform(0.61, 0.76), rng.uniform(0.0008, 0.002))
            for _ in range(rng.integers(0, 4))
        ],
        "wrinkles": float(np.clip(age * 1.2 - 0.15 + 0.2 * rng.standard_normal(), 0, 1)),
        "sockets": float(rng.uniform(0.1, 1)),
        "eye_rings": float(np.clip(0.2 + 0.5 * age + 0.3 * rng.standard_normal(), 0, 1)),
        "lip_depth": float(rng.uniform(0.75, 1.0)),
        "lipstick": float(rng.uniform(0.3, 0.9)) if not male and rng.random() < 0.55 else 0.0,
        "lip_tint": np.float32([rng.uniform(0.25, 0.45), rng.uniform(0.04, 0.12), rng.uniform(0.05, 0.12)])
        * np.float32(1 - 0.6 * melanin),
        "eye_shadow": float(rng.uniform(0.15, 0.5)) if not male and rng.random() < 0.4 else 0.0,
        "shadow_tint": np.float32([0.12, 0.08, 0.07]) * np.float32(rng.uniform(0.4, 1.5)),
        "lashes": float(rng.uniform(0.5, 0.8) if male else rng.uniform(0.7, 1.2)),
        "iris": ramp(IRIS, rng.uniform(0.4, 1) if light_eyes else rng.uniform(0, 0.3 - 0.2 * melanin)),
        "iris_size": float(rng.uniform(0.42, 0.48)),
        "sclera": float(rng.uniform(0.85, 1.05) * (1 - 0.25 * melanin)),
        "frame": np.float32(rng.choice([0.01, 0.03, 0.2])) * np.float32([1, rng.uniform(0.7, 1), rng.uniform(0.5, 1)]),
        "frame_size": (float(rng.uniform(0.022, 0.027)), float(rng.uniform(0.016, 0.022))),
        "frame_shape": float(rng.uniform(2.0, 5.0)),
        "frame_width": float(rng.uniform(0.0007, 0.0016)),
        "wears_glasses": float(rng.choice([0.0, 0.05, 0.9], p=[0.5, 0.3, 0.2])),
    } | make_hair(rng, male, age, african, african + asian > rng.uniform(0.2, 0.9), grey)


def make_hair(rng: np.random.Generator, male: bool, age: float, african: float, dark: bool, grey: float) -> Look:
    """The part of the appearance that concerns hair, brows and beard.

    ``age``, ``african`` and ``grey`` (fraction of grey hair): 0..1. ``dark``: restricts the colours to dark ones.
    """
    colour = ramp(HAIR[:3] if dark else HAIR, rng.uniform(0, 0.4) if dark else rng.uniform(0, 1))
    thin = male and rng.random() < 0.2 + 0.35 * age
    woolly = rng.random() < african
    if thin:
        cut = rng.choice(["bald", "buzz", "buzz", "crop"])
    elif woolly:
        cut = rng.choice(
            ["buzz", "buzz", "afro", "curls", "bald"] if male else ["afro", "curls", "tied", "long", "long", "bob"]
        )
    elif male:
        cut = rng.choice(["buzz", "crop", "crop", "side", "side", "quiff", "swept", "medium", "curls"])
    else:
        cut = rng.choice(["side", "curls", "medium", "medium", "bob", "bob", "long", "long", "long", "tied"])
    style = CUTS.get(str(cut))
    curly = woolly or cut in ("curls", "afro")
    wave = float(rng.uniform(0.002, 0.006)) if rng.random() < 0.5 else 0.0
    beard = str(rng.choice(["none", "stubble", "short", "full"], p=[0.45, 0.25, 0.18, 0.12])) if male else "none"
    shape = rng.random(3)
    bearded = beard != "none"
    return {
        "hair_colour": colour * (1 - grey) + GREY * grey,
        "beard_colour": (colour * np.float32([1.15, 0.95, 0.9])) * (1 - 0.9 * grey) + GREY * 0.9 * grey,
        "grey": grey,
        "cut": str(cut),
        "hair_cover": {"bald": float(rng.uniform(0.05, 0.3)), "buzz": 0.7}.get(str(cut), 0.95),
        "hair_waves": np.concatenate(
            [rng.normal(0, 1, (10, 3)) * rng.choice([120, 350], (10, 1)), rng.uniform(0, 6.28, (10, 1))], 1
        ).astype(np.float32),
        "hairline": float(rng.uniform(0.050, 0.064) + (0.010 * age if thin else 0)),
        "recession": float(rng.uniform(0, 0.008) + (rng.uniform(0.004, 0.02) if thin else 0.004 * male)),
        "peak": float(rng.uniform(-0.002, 0.005)),
        "sideburn": float(rng.uniform(0, 0.02) if male else rng.uniform(-0.004, 0.008)),
        "bald_top": bool(thin and rng.random() < 0.5),
        "length": float(rng.uniform(*style.length)) if style else 0.0,
        "thickness": float(rng.uniform(*style.thickness)) if style else 0.0,
        "fade": float(rng.uniform(0.2, 0.8)),
        "fringe": float(rng.uniform(0.040, 0.058))
        if cut in ("bob", "long", "medium", "crop") and not thin and rng.random() < 0.4
        else 0.0,
        "part": float(rng.choice([-1, 1]) * rng.uniform(0.003, 0.035)),
        "opening": float(rng.uniform(0.056, 0.072)),
        "wild": float(rng.uniform(0.1, 0.5)),
        "locks": float(rng.uniform(0.2, 0.7)),
        "curl": float(rng.uniform(0.003, 0.006)) if curly else wave,
        "curl_rate": float(rng.uniform(300, 600) if curly else rng.uniform(80, 180)),
        "brow_height": float(rng.uniform(0.0165, 0.0205) + (0 if male else 0.0015)),
        "brow_arch": float(rng.uniform(0.0, 0.005)),
        "brow_tilt": float(rng.uniform(-0.06, 0.14)),
        "brow_thickness": float(rng.uniform(0.0026, 0.0052) if male else rng.uniform(0.0018, 0.0036)),
        "brow_gap": float(rng.uniform(0.008, 0.014)),
        "brow_strength": float(rng.uniform(0.55, 1.0)),
        "beard": float(rng.uniform(0.6, 1.0)),
        "beard_length": {"short": float(rng.uniform(0.003, 0.008)), "full": float(rng.uniform(0.010, 0.030))}.get(
            beard, 0.0
        ),
        "stubble": {"none": float(rng.uniform(0, 0.10) if male else 0), "stubble": float(rng.uniform(0.25, 0.5))}.get(
            beard, 0.6
        ),
        "beard_shape": (float(shape[0] < 0.9), float(shape[1] < 0.6), float(shape[2] < 0.85))
        if bearded
        else (1.0, 1.0, 1.0),
        "beard_line": float(rng.uniform(0.5, 1.1)),
    }


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The rotation matrix (3, 3) in the model's axes of angles in radians.

    Positive angles turn the face to the right of the image, up, and clockwise in the image.
    """
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])  # moves the nose from (0, -1, 0) to (sin, -cos, 0)
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])  # moves the nose to (0, -cos, sin)
    tilt = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return (tilt @ turn @ nod).astype(np.float32)
