"""Photos of a rendered person: pose, expression, light, camera, background and image degradation."""

from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.data.alignment import TEMPLATE
from utils.data.images import SIDE
from utils.data.landmarks import size_of
from world.renderer.figure import FLATS, Figure, make_texture
from world.renderer.head import SIDE as TEXELS
from world.renderer.head import HeadModel
from world.renderer.mixture import mix_traits
from world.renderer.paint import Painter
from world.renderer.person import draw_traits, person_of, rotation, stream
from world.renderer.rasterizer import Rasterizer
from world.renderer.scene import Setting, make_background, make_cloth, make_light, occlude

AXES = np.float32([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # rotation from the model's axes to x right, y down, z away
SAMPLES = 2  # number of samples along each edge of a pixel
LENS = 0.45  # pixels: standard deviation of the lens blur, which prevents aliasing of thin strands of hair
EXPRESSIONS = [  # {action unit: strength}
    {},
    {"mouthSmileLeft": 0.6, "mouthSmileRight": 0.6, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4},
    {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "jawOpen": 0.15, "eyeSquintLeft": 0.4, "eyeSquintRight": 0.4},
    {"jawOpen": 0.35, "browInnerUp": 0.7, "eyeWideLeft": 0.5, "eyeWideRight": 0.5},
    {"mouthFrownLeft": 0.7, "mouthFrownRight": 0.7, "browDownLeft": 0.7, "browDownRight": 0.7},
    {"mouthPucker": 0.6},
    {"eyeBlinkLeft": 0.9, "eyeBlinkRight": 0.9},
    {"browOuterUpLeft": 0.6, "browOuterUpRight": 0.6, "mouthPressLeft": 0.5, "mouthPressRight": 0.5},
]


class View(NamedTuple):
    """Focal length and principal point (2,) in pixels, and the rotation (2, 2) in the image plane."""

    focal: float
    centre: np.ndarray
    tilt: np.ndarray


def draw_yaw(rng: np.random.Generator) -> float:
    """A random yaw in degrees, -90 to 90, mostly frontal as in photo collections."""
    kind = rng.random()
    if kind < 0.55:
        return float(np.clip(10 * rng.standard_normal(), -90, 90))
    if kind < 0.88:
        return float(np.clip(32 * rng.standard_normal(), -90, 90))
    return float(rng.uniform(-90, 90))


def draw_setting(rng: np.random.Generator, glasses_probability: float) -> Setting:
    """Random conditions of a photo, as plain numbers. Angles are in degrees, distances in metres."""
    expression = EXPRESSIONS[rng.choice(len(EXPRESSIONS), p=[0.34, 0.2, 0.14, 0.08, 0.08, 0.05, 0.03, 0.08])]
    strength = float(rng.uniform(0.4, 1))
    degraded = rng.random(4) < [0.3, 0.25, 0.4, 0.5]
    return {
        "yaw": draw_yaw(rng),
        "pitch": float(np.clip(9 * rng.standard_normal(), -35, 35)),
        "roll": float(np.clip(4 * rng.standard_normal(), -15, 15)),
        "expression": {name: round(weight * strength, 3) for name, weight in expression.items()},
        "gaze": [float(9 * rng.standard_normal()), float(5 * rng.standard_normal())],
        "distance": float(rng.uniform(0.55, 1.8)),
        "glasses": bool(rng.random() < glasses_probability),
        "light_azimuth": float(rng.uniform(-100, 100)),
        "light_elevation": float(rng.uniform(-5, 75)),
        "light_hardness": float(rng.uniform(0.25, 0.9)),
        "warmth": float(rng.normal(0, 0.18)),
        "exposure": float(rng.uniform(0.75, 1.35)),
        "occluded": bool(rng.random() < 0.06),
        "blur": float(rng.uniform(0.4, 1.8)) if degraded[0] else 0.0,
        "resolution": float(rng.uniform(0.3, 0.9)) if degraded[1] else 1.0,
        "noise": float(rng.uniform(1, 9)) if degraded[2] else 0.0,
        "jpeg": int(rng.integers(35, 90)) if degraded[3] else 95,
    }


def quality_of(setting: Setting) -> float:
    """The quality of a photo, from the conditions under which it is taken: 1 without degradation, towards 0 with."""
    sharp = setting["resolution"] / (1 + setting["blur"] ** 2)
    clean = 1 / (1 + (setting["noise"] / 12) ** 2)
    light = np.exp(-(np.log(setting["exposure"]) ** 2))
    return float(round(sharp * clean * light * (0.8 if setting["occluded"] else 1), 4))


class Photographer:
    """Takes photos of the person with the number ``identity``.

    ``mixture``: the number of another person and phi, for photos of the mixture of phi of the first with 1 - phi of the
    other one.
    """

    def __init__(
        self, model: HeadModel, painter: Painter, seed: int, identity: int, mixture: tuple[int, float] | None = None
    ):
        self.seed, self.identity = seed, identity
        traits = draw_traits(model, seed, identity)
        if mixture is not None:
            other, phi = mixture
            traits = mix_traits(traits, draw_traits(model, seed, other), phi)
        self.person = person_of(model, traits)
        rng = stream(seed, identity, 1)
        self.figure = Figure(model, painter, self.person, rng)
        texture = make_texture(painter, self.person, rng)
        figure = self.figure
        self.rasterizer = Rasterizer(
            figure.faces, figure.solid, figure.uv, texture, figure.openness, figure.tangents, figure.strand_normals,
            figure.strand_shape,
        )  # fmt: skip

    def take(self, image: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Photo number ``image`` of the person, (112, 112, 3) uint8 RGB, and its labels."""
        rng = stream(self.seed, self.identity, 2, image)
        setting = draw_setting(rng, self.person.look["wears_glasses"])
        landmarks = self.landmarks(setting).astype(float).round(2).tolist()
        label = setting | {"quality": quality_of(setting), "landmarks": landmarks}
        return self.shoot(setting, rng), label | self.person.label

    def landmarks(self, setting: Setting) -> np.ndarray:
        """Pixels (5, 2) of eyes, tip of the nose and corners of the mouth under given conditions, seen or hidden."""
        camera, _, (focal, centre, tilt) = self._place(setting)
        points = self._landmarks(camera)  # (5, 3)
        seen = points[:, :2] / points[:, 2:]  # (5, 2)
        return centre + focal * seen @ tilt.T

    def shoot(self, setting: Setting, rng: np.random.Generator) -> np.ndarray:
        """A photo (112, 112, 3) uint8 RGB under given conditions; clothes, background and noise are random."""
        camera, turn, (focal, centre, tilt) = self._place(setting)
        camera[:, :2] = camera[:, :2] @ tilt.T
        to_camera = np.eye(3, dtype=np.float32)
        to_camera[:2, :2] = tilt
        self.rasterizer.colour(slice(FLATS["cloth"], FLATS["cloth"] + 32), slice(TEXELS + 8, None), make_cloth(rng))
        picture = self.rasterizer.render(
            camera, to_camera @ AXES @ turn, self.figure.shown, make_light(setting), focal, centre, SIDE, SAMPLES
        )
        picture = cv2.GaussianBlur(picture, (0, 0), LENS)
        face, cover = picture[..., :3], picture[..., 3:]
        if setting["occluded"]:
            face, cover = occlude(face, cover, rng)
        # The face in the middle of the image sets the exposure. Brightness is compensated only in part, so that dark
        # faces stay darker than light ones.
        middle = np.s_[SIDE * 3 // 8 : SIDE * 7 // 8, SIDE // 4 : SIDE * 3 // 4]
        mean = face[middle][cover[middle][..., 0] > 0.5]
        bright = mean.mean() if len(mean) else 0.25
        key = 0.5 * max(bright, 0.01) ** -0.42 * setting["exposure"]
        linear = face * key + make_background(rng) * (1 - cover)
        return degrade(to_display(linear), setting, rng)

    def _place(self, setting: Setting) -> tuple[np.ndarray, np.ndarray, View]:
        """The vertices (S + H, 3) in camera space, the rotation (3, 3) of the head, and the view."""
        vertices = self.figure.posed(setting["expression"], setting["gaze"], setting["glasses"])
        turn = rotation(*np.deg2rad([setting["yaw"], setting["pitch"], 0.0]))
        pivot = self.figure.eyes.mean(0) + np.float32([0, 0.08, -0.03])
        camera = in_camera((vertices - pivot) @ turn.T, setting["distance"])
        return camera, turn, self._frame(camera, setting)

    def _landmarks(self, camera: np.ndarray) -> np.ndarray:
        """The five landmarks (5, 3) among vertices (S + H, 3), in the template's order."""
        marks = self.figure.landmarks
        eyes = [camera[own].mean(0) for own in self.figure.eye_vertices]
        nose, left, right = (camera[marks[name]] for name in ("nose", "mouth_left", "mouth_right"))
        return np.stack([eyes[1], eyes[0], nose, right, left])  # (5, 3)

    def _frame(self, camera: np.ndarray, setting: Setting) -> View:
        """The view that aligns the face to the ArcFace template. ``camera`` (S + H, 3): vertices in camera space."""
        points = self._landmarks(camera)  # (5, 3)
        seen = points[:, :2] / points[:, 2:]  # (5, 2)
        # The scale is set by distances in space and not by projected ones, which would enlarge profiles.
        focal = points[:, 2].mean() * size_of(TEMPLATE) / size_of(points)
        roll = np.deg2rad(setting["roll"])
        tilt = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]], np.float32)
        centre = TEMPLATE.mean(0) - focal * (seen @ tilt.T).mean(0)
        return View(focal, centre, tilt)


def in_camera(vertices: np.ndarray, distance: float) -> np.ndarray:
    """Vertices (V, 3) in the model's axes -> in camera space, at ``distance`` metres."""
    return (vertices @ AXES.T + np.float32([0, 0, distance])).astype(np.float32)


def to_display(linear: np.ndarray) -> np.ndarray:
    """Linear RGB (H, W, 3) -> gamma-encoded values in 0..255, with compressed highlights."""
    return 255 * (linear.clip(0) / (1 + 0.25 * linear.clip(0))).clip(0, 1) ** (1 / 2.2)


def degrade(picture: np.ndarray, setting: Setting, rng: np.random.Generator) -> np.ndarray:
    """Apply the blur, low resolution, sensor noise and JPEG compression of a setting.

    (112, 112, 3) in 0..255 -> (112, 112, 3) uint8.
    """
    if setting["blur"]:
        picture = cv2.GaussianBlur(picture, (0, 0), setting["blur"])
    if setting["resolution"] < 1:
        small = max(16, round(SIDE * setting["resolution"]))
        picture = cv2.resize(
            cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA),
            (SIDE, SIDE),
            interpolation=cv2.INTER_CUBIC,
        )
    if setting["noise"]:
        picture = picture + setting["noise"] * rng.standard_normal(picture.shape)
    picture = picture.round().clip(0, 255).astype(np.uint8)
    if setting["jpeg"] < 95:
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, setting["jpeg"]])[1]
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return picture
