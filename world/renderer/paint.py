"""The texture of a person's head: skin, lips, make-up and the base of the hair; and that of the eyes."""

import cv2
import numpy as np

from world.renderer.head import SIDE, Head
from world.renderer.regions import Look, Regions, smooth

SKIN = np.float32(  # linear RGB from light to dark
    [
        [0.76, 0.53, 0.42],
        [0.66, 0.43, 0.31],
        [0.50, 0.30, 0.19],
        [0.33, 0.18, 0.11],
        [0.17, 0.088, 0.052],
        [0.085, 0.045, 0.029],
    ]
)
HAIR = np.float32(
    [
        [0.012, 0.010, 0.009],
        [0.040, 0.023, 0.014],
        [0.11, 0.058, 0.030],
        [0.27, 0.165, 0.080],
        [0.48, 0.34, 0.17],
        [0.26, 0.085, 0.030],
    ]
)
IRIS = np.float32(
    [[0.022, 0.011, 0.006], [0.10, 0.052, 0.022], [0.10, 0.12, 0.05], [0.09, 0.14, 0.20], [0.15, 0.18, 0.20]]
)
GREY = np.float32([0.46, 0.44, 0.41])
EYE_BLOCK = 96  # side in texels of the texture of an eye


def noise(rng: np.random.Generator, cells: int, side: int = SIDE) -> np.ndarray:
    """Smooth noise (side, side) of about unit variance, interpolated from a grid of ``cells`` x ``cells`` values."""
    return cv2.resize(rng.standard_normal((cells, cells), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)


def ramp(palette: np.ndarray, position: float) -> np.ndarray:
    """The colour (3,) at a position in 0..1 of a palette (N, 3), interpolated linearly."""
    x = float(np.clip(position, 0, 1)) * (len(palette) - 1)
    i = min(int(x), len(palette) - 2)
    return palette[i] * (1 - (x - i)) + palette[i + 1] * (x - i)


def window(cover: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of the bounding box of the non-zero values of a map (H, W)."""
    edges = []
    for axis in (1, 0):
        nonzero = np.flatnonzero(cover.any(axis))
        edges.append(slice(nonzero[0], nonzero[-1] + 1) if len(nonzero) else slice(0, 0))
    return tuple(edges)


def blend(colour: np.ndarray, part: np.ndarray, shade: np.ndarray) -> None:
    """Blend ``shade``, a colour (3,) or an image (H, W, 3), into the image ``colour`` (H, W, 3), in place.

    ``part`` (H, W): opacity in 0..1.
    """
    area = window(part)
    part = part[area][..., None]  # (h, w, 1)
    colour[area] = colour[area] * (1 - part) + (shade[area] if np.ndim(shade) == 3 else shade) * part


class Painter:
    """Paints textures, with masks (SIDE, SIDE) of the parts of the average head that are computed once."""

    def __init__(self, head: Head):
        self.head, self.regions = head, Regions(head)
        self.texels = {  # texels in which each kind of hair can grow
            "scalp": np.nonzero(head.position[..., 2] > 0.62),
            "brows": np.nonzero(np.abs(head.position[..., 2] - self.regions.eye[2] - 0.02) < 0.015),
            "beard": np.nonzero(
                (head.position[..., 2] < self.regions.nose[2] + 0.02) & (head.position[..., 1] < -0.03)
            ),
        }
        self.texels["moustache"] = self.texels["beard"]
        self.x, self.y, self.z = np.ascontiguousarray(np.moveaxis(head.position, -1, 0))  # (SIDE, SIDE) each
        self.eye, self.eye_x, self.nose = self.regions.eye, self.regions.eye_x, self.regions.nose
        self.mouth_z = self.regions.mouth[2]
        self.lips = cv2.GaussianBlur(head.lip_map, (0, 0), 1.5)
        self.front = smooth(-self.y, 0.03, 0.09)  # 1 on the face, 0 behind the ears
        self.face = window((self.front > 0) & (self.z > 0.6) & (self.z < self.eye[2] + 0.07))
        height = self.z - self.nose[2]
        side = np.abs(self.x)
        cheeks = 0.8 * smooth(0.042 - np.hypot(side - 0.044, 1.1 * height), 0, 0.042)
        self.nose_tip = smooth(0.022 - np.hypot(self.x, height), 0, 0.018)
        chin = smooth(0.016 - np.hypot(self.x, self.z - self.mouth_z + 0.032), 0, 0.014)
        ears = smooth(side, 0.077, 0.083) * smooth(self.y, -0.06, -0.04)
        self.red = (cheeks + 0.9 * self.nose_tip + 0.4 * chin + 0.8 * ears).clip(0, 1)  # redness
        from_eye = np.hypot(side - self.eye_x, 1.25 * (self.z - self.eye[2] + 0.003))
        self.socket = smooth(0.027 - from_eye, 0, 0.014) * self.front
        self.under_eye = smooth(0.010 - np.abs(self.z - self.eye[2] + 0.017), 0, 0.008)
        self.under_eye *= smooth(0.019 - np.abs(side - self.eye_x + 0.003), 0, 0.012) * self.front
        # (SIDE, SIDE): distance of each texel from the centre of the nearer eye
        lid = np.linalg.norm(head.position - np.stack([np.sign(self.x) * self.eye_x, *np.broadcast_arrays(
            self.eye[1] + 0 * self.x, self.eye[2] + 0 * self.x)], -1), axis=-1)  # fmt: skip
        radius = np.ptp(head.vertices[np.unique(head.faces[head.eye_faces]), 2]) / 2
        near = smooth(0.0034 - (lid - radius), 0, 0.0022) * (self.y < -0.09)
        self.lash_line = near * np.where(self.z > self.eye[2], 1.0, 0.4)
        forehead = smooth(self.z, self.eye[2] + 0.022, self.eye[2] + 0.045) * smooth(0.045 - side, 0, 0.03)
        bridge = smooth(0.010 - side, 0, 0.008) * smooth(self.z, self.nose[2] - 0.008, self.nose[2] + 0.004)
        bridge *= smooth(self.eye[2] + 0.012 - self.z, 0, 0.012)
        self.oily = (0.5 * forehead + bridge + 0.6 * self.nose_tip + 0.4 * cheeks + 0.4 * chin) * self.front

    def paint(self, look: Look, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The textures of the head (SIDE, SIDE, 4) and of an eye (EYE_BLOCK, EYE_BLOCK, 4): linear RGB and gloss."""
        colour = self._skin(look, rng)
        grain = noise(rng, 150) + 0.7 * rng.standard_normal((SIDE, SIDE), np.float32)
        gloss = look["shine"] * (0.5 + self.oily) * (1 + 0.15 * noise(rng, 200))
        stick = look["lipstick"]
        bare = ramp(SKIN, look["melanin"]) * np.float32([0.93, 0.60, 0.58]) * look["lip_depth"]
        lip = (bare * (1 - stick) + look["lip_tint"] * stick) * (1 + 0.06 * noise(rng, 220)[..., None])
        blend(colour, 0.85 * self.lips, lip)
        gloss = gloss + (0.10 + 0.3 * stick) * self.lips
        hair = look["hair_colour"]
        grain = (0.75 + 0.35 * grain).clip(0, 1.4)
        scalp = self._cover("scalp", look) * look["hair_cover"]
        brows = 0.45 * self._cover("brows", look) * look["brow_strength"]
        stubble = np.maximum(self._cover("beard", look), self._cover("moustache", look))
        stubble = stubble * (1 - self.lips) * look["stubble"] * (1 - 0.5 * look["grey"])
        for cover, shade in ((scalp, hair * 0.55), (brows, look["beard_colour"] * 0.8), (stubble, hair * 0.6)):
            part = (cover * np.maximum(grain, (cover - 0.3) / 0.6)).clip(0, 0.97)  # sparse hair is grainy
            blend(colour, part, shade)
            gloss = gloss * (1 - 0.8 * part)
        blend(colour, look["eye_shadow"] * self.socket * (self.z > self.eye[2]), look["shadow_tint"])
        blend(colour, look["lashes"] * 0.75 * self.lash_line, np.float32(0))
        texture = np.concatenate([colour.clip(0.003, 1), gloss.clip(0, 0.6)[..., None]], -1).astype(np.float32)
        return texture, self._iris(look, rng)

    def _cover(self, kind: str, look: Look) -> np.ndarray:
        """The density (SIDE, SIDE) of a kind of hair."""
        cover = np.zeros((SIDE, SIDE), np.float32)
        cover[self.texels[kind]] = getattr(self.regions, kind)(look, self.head.position[self.texels[kind]])
        return cover

    def _skin(self, look: Look, rng: np.random.Generator) -> np.ndarray:
        """The linear RGB colour (SIDE, SIDE, 3) of the skin."""
        base = ramp(SKIN, look["melanin"]) * (1 + look["tint"])
        mottle = 1 + 0.03 * noise(rng, 7) + 0.035 * noise(rng, 45) + 0.03 * noise(rng, 160)
        mottle += 0.03 * look["roughness"] * rng.standard_normal((SIDE, SIDE), np.float32)  # pores
        blood = self.red * (1 + 0.25 * noise(rng, 30)) + 0.18 * noise(rng, 60).clip(0, 3) * self.front
        flush = 1 - look["flush"] * blood[..., None] * np.float32([0.02, 0.30, 0.26])
        colour = base * mottle[..., None] * flush
        colour = colour * (1 - self.socket[..., None] * look["sockets"] * np.float32([0.14, 0.22, 0.18]))
        colour = colour * (1 - self.under_eye[..., None] * look["eye_rings"] * np.float32([0.30, 0.34, 0.26]))
        freckles = smooth(noise(rng, 190) + 0.6 * noise(rng, 60), 1.2, 2.0) * look["freckles"]
        freckles *= smooth(-self.y, 0.02, 0.08) * smooth(0.06 - np.abs(self.z - self.nose[2] - 0.01), -0.03, 0.05)
        colour = colour * (1 - 0.55 * freckles[..., None] * np.float32([0.5, 0.8, 1.0]))
        spots = smooth(noise(rng, 70), 1.9, 2.3) * look["age_spots"]
        colour = colour * (1 - 0.4 * spots[..., None] * np.float32([0.6, 0.9, 1.0]))
        for x, z, size in look["moles"]:
            near = (np.abs(self.x - x) < size) & (np.abs(self.z - z) < size) & (self.y < -0.05)
            spot = smooth(size - np.hypot(self.x[near] - x, self.z[near] - z), 0, 0.0006)  # (texels,)
            colour[near] *= 1 - 0.65 * spot[:, None]
        lines = look["wrinkles"] * self._wrinkles(rng)[..., None]  # (h, w, 1)
        colour[self.face] *= 1 - lines * np.float32([0.8, 1.0, 1.0])
        return colour

    def _wrinkles(self, rng: np.random.Generator) -> np.ndarray:
        """Depth in 0..0.5 of forehead, frown, eye and nasolabial lines in the window ``self.face``."""
        x, z, front = self.x[self.face], self.z[self.face], self.front[self.face]
        wobble = (0.0022 * noise(rng, 9) + 0.0006 * noise(rng, 40))[self.face]
        broken = (0.7 + 0.5 * noise(rng, 14)).clip(0, 1)[self.face]  # lines are interrupted
        high, side, across = z - self.eye[2], np.abs(x) - self.eye_x, rng.uniform(700, 950)
        forehead = smooth(np.sin((z + wobble + 1.5 * x**2) * across), 0.35, 1.0) * smooth(high, 0.030, 0.040)
        forehead *= smooth(0.064 - high, 0, 0.02) * smooth(0.045 - np.abs(x), 0, 0.025) * broken
        angle = np.arctan2(high + wobble, side - 0.006)
        crow = smooth(np.sin(angle * 12 + noise(rng, 20)[self.face]), 0.2, 1.0) * smooth(side, 0.016, 0.021)
        crow *= smooth(0.034 - side, 0, 0.010) * smooth(0.016 - np.abs(high), 0, 0.010) * broken
        fold = np.abs(np.abs(x) - (0.020 + 0.42 * (self.nose[2] - z).clip(0, 0.04)) + wobble)
        fold = smooth(0.0034 - fold, 0, 0.0034) * smooth(self.nose[2] - z, -0.006, 0.010)
        fold *= smooth(z - self.mouth_z, -0.012, 0.006)
        bag = smooth(0.0016 - np.abs(high + 0.0175 + 6 * side**2 + wobble), 0, 0.0014)
        bag *= smooth(0.016 - np.abs(side), 0, 0.008)
        frown = smooth(0.0016 - np.abs(np.abs(x + wobble) - 0.006), 0, 0.0014)
        frown *= smooth(0.011 - np.abs(high - 0.022), 0, 0.008)
        return ((0.22 * (forehead + crow + bag + frown) + 0.30 * fold) * front).clip(0, 0.5)

    def _iris(self, look: Look, rng: np.random.Generator) -> np.ndarray:
        """The texture (EYE_BLOCK, EYE_BLOCK, 4) of an eye: sclera, iris, pupil and the shadow of the upper lid."""
        x, y = np.meshgrid(*[np.linspace(-1, 1, EYE_BLOCK)] * 2)
        radius, angle = np.hypot(x, y), np.arctan2(x, y)
        phase = rng.uniform(0, 6.28, 3)
        rays = 1 + 0.15 * np.sin(angle * 23 + phase[0] + 3 * np.sin(angle * 5 + phase[1])) * smooth(radius, 0.1, 0.3)
        size = look["iris_size"]
        shade = 1.25 - 0.2 * smooth(radius, 0.2, 0.35) - 0.75 * smooth(radius, size - 0.10, size - 0.01)
        shade = shade * (1 + 0.35 * smooth(y, -0.1, 0.35))  # the iris is lighter below the pupil
        iris = look["iris"] * (rays * shade)[..., None]  # (B, B, 3), with B = EYE_BLOCK
        redness = smooth(np.abs(x), 0.45, 0.95)[..., None] * np.float32([0.10, 0.36, 0.34])
        white = np.float32([0.52, 0.475, 0.45]) * look["sclera"] * (1 - redness)
        block = white + (iris - white) * (1 - smooth(radius, size - 0.03, size + 0.03))[..., None]  # (B, B, 3)
        block = block * (smooth(radius, 0.15, 0.20) * 0.97 + 0.03)[..., None]
        block = block * (1 - 0.55 * smooth(-y, 0.12, 0.55))[..., None]
        gloss = np.full((EYE_BLOCK, EYE_BLOCK, 1), 0.95)
        return np.concatenate([block, gloss], -1).astype(np.float32)
