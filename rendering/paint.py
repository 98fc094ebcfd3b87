"""A person's surface: skin, lips, brows, beard, scalp hair and eyes, painted into the head's texture."""

import cv2
import numpy as np

from rendering.head import SIDE

SKIN = np.float32(  # linear RGB from light to dark
    [
        [0.78, 0.58, 0.47],
        [0.66, 0.45, 0.33],
        [0.50, 0.31, 0.20],
        [0.33, 0.19, 0.115],
        [0.16, 0.085, 0.05],
        [0.07, 0.04, 0.028],
    ]
)
HAIR = np.float32(
    [
        [0.012, 0.010, 0.009],
        [0.045, 0.025, 0.014],
        [0.12, 0.06, 0.03],
        [0.30, 0.18, 0.08],
        [0.50, 0.36, 0.18],
        [0.28, 0.09, 0.03],
    ]
)
IRIS = np.float32([[0.06, 0.03, 0.015], [0.14, 0.08, 0.03], [0.10, 0.13, 0.05], [0.08, 0.16, 0.26], [0.16, 0.20, 0.22]])
GREY = np.float32([0.42, 0.41, 0.40])
EYE_BLOCK = 96  # texels of an eye's texture


def smooth(x, low, high):
    """0 below ``low``, 1 above ``high``, without a kink."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def noise(rng, cells, side=SIDE):
    """(side, side) smooth noise of about unit variance, ``cells`` bumps across."""
    return cv2.resize(
        rng.standard_normal((cells, cells)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
    )


def ramp(palette, place):
    """A colour of a palette (N, 3) at 0..1, float32."""
    x = float(np.clip(place, 0, 1)) * (len(palette) - 1)
    i = min(int(x), len(palette) - 2)
    return palette[i] * (1 - (x - i)) + palette[i + 1] * (x - i)


def window(cover):
    """The rows and columns (slices) of a map (H, W) outside of which it is 0."""
    edges = []
    for axis in (1, 0):
        there = np.flatnonzero(cover.any(axis))
        edges.append(slice(there[0], there[-1] + 1) if len(there) else slice(0, 0))
    return tuple(edges)


class Painter:
    """Knows where on the average head things are; ``paint`` gives textures of a head (SIDE, SIDE, 4) and of an eye."""

    def __init__(self, head):
        self.head, maps = head, head.maps
        self.x, self.y, self.z = np.ascontiguousarray(np.moveaxis(maps["position"], -1, 0))  # (SIDE, SIDE) each
        self.eye = head.eyes.mean(0)
        self.nose = head.vertices[head.landmarks["nose"]]
        mouth = head.vertices[[head.landmarks["mouth_left"], head.landmarks["mouth_right"]]].mean(0)
        self.mouth_z, self.eye_x = mouth[2], abs(head.eyes[0, 0])
        corner = (head.uv.reshape(-1, 2) * SIDE).astype(int).clip(0, SIDE - 1)
        self.vertex_ears = np.zeros(len(head.vertices), np.float32)
        np.maximum.at(self.vertex_ears, head.faces.reshape(-1), maps["ears"][corner[:, 1], corner[:, 0]])
        self.front = smooth(-self.y, 0.03, 0.09)  # 1 on the face, 0 from the ears on
        height = self.z - self.nose[2]
        cheeks = smooth(0.045 - np.hypot(np.abs(self.x) - 0.045, height), 0, 0.03)
        nose = smooth(0.03 - np.hypot(self.x, height), 0, 0.02)
        self.red = (0.8 * cheeks + 0.7 * nose + 0.8 * maps["ears"]) * self.front.clip(0.3, 1)  # where blood shows

    def paint(self, person, rng):
        look = person.look
        texture = np.zeros((SIDE, SIDE, 4), np.float32)
        colour = self._skin(look, rng)
        gloss = np.full((SIDE, SIDE), look["shine"], np.float32)
        lips = cv2.GaussianBlur(self.head.maps["lips"], (0, 0), 1.2)[..., None]
        tone = colour.mean((0, 1))
        lip_colour = tone * np.float32([1.0, 0.62, 0.60]) * (1 - look["lipstick"]) + look["lip_tint"] * look["lipstick"]
        colour = colour * (1 - 0.85 * lips) + lip_colour * 0.85 * lips
        gloss = gloss + 0.25 * lips[..., 0] * (0.4 + look["lipstick"])
        hair = look["hair_colour"]
        strands = 0.8 + 0.35 * self._strands(rng)[..., None]
        for cover, shade in (
            (self._brows(look, rng), hair * 0.8), (self._beard(look, rng), hair * 0.75), (self._scalp(look, rng), hair)
        ):  # fmt: skip
            place = window(cover)
            part = cover[place][..., None]
            colour[place] = colour[place] * (1 - part) + shade * strands[place] * part
            gloss[place] = gloss[place] * (1 - 0.6 * cover[place]) + 0.12 * cover[place]
        lids = cv2.GaussianBlur(self.head.maps["eyelids"], (0, 0), 2)[..., None]
        colour = colour * (1 - look["eye_shadow"] * lids) + look["lip_tint"] * 0.4 * look["eye_shadow"] * lids
        texture[..., :3], texture[..., 3] = colour.clip(0.003, 1), gloss.clip(0, 1)
        return texture, self._iris(look, rng)

    def _skin(self, look, rng):
        base = ramp(SKIN, look["melanin"]) * (1 + look["tint"])
        mottle = 1 + 0.05 * noise(rng, 9) + 0.035 * noise(rng, 40) + 0.02 * noise(rng, 160)
        flush = 1 - look["flush"] * self.red[..., None] * np.float32([-0.08, 0.30, 0.26])
        colour = base * mottle[..., None] * flush
        freckles = smooth(noise(rng, 190) + 0.6 * noise(rng, 60), 1.5, 2.1) * look["freckles"] * self.front
        colour = colour * (1 - 0.55 * freckles[..., None] * np.float32([0.5, 0.8, 1.0]))
        for x, z, size in look["moles"]:
            near = (np.abs(self.x - x) < size) & (np.abs(self.z - z) < size) & (self.y < -0.05)
            spot = smooth(size - np.hypot(self.x[near] - x, self.z[near] - z), 0, 0.0006)  # (texels,)
            colour[near] *= 1 - 0.7 * spot[:, None]
        return colour * (1 - look["wrinkles"] * self._wrinkles(rng)[..., None])

    def _wrinkles(self, rng):
        """Lines of the forehead, beside the eyes, and from nose to mouth; strength 0..1."""
        wobble = 0.0015 * noise(rng, 12)
        forehead = smooth(np.sin((self.z + wobble) * 1050), 0.55, 1.0) * smooth(
            self.z, self.eye[2] + 0.028, self.eye[2] + 0.038
        )
        forehead *= smooth(self.eye[2] + 0.075 - self.z, 0, 0.02) * smooth(0.05 - np.abs(self.x), 0, 0.02) * self.front
        side = np.abs(self.x) - self.eye_x
        angle = np.arctan2(self.z - self.eye[2] + wobble, side - 0.006)
        crow = smooth(np.sin(angle * 14), 0.4, 1.0) * smooth(side, 0.016, 0.021) * smooth(0.034 - side, 0, 0.008)
        crow *= smooth(0.016 - np.abs(self.z - self.eye[2]), 0, 0.008)
        fold = np.abs(np.abs(self.x) - (0.019 + 0.42 * (self.nose[2] - self.z).clip(0, 0.04)))
        fold = smooth(0.0022 - fold, 0, 0.0018) * smooth(self.nose[2] - self.z, -0.006, 0.006)
        fold *= smooth(self.z - self.mouth_z, -0.012, 0.0) * self.front
        return (0.35 * forehead + 0.3 * crow + 0.4 * fold).clip(0, 0.6)

    def _strands(self, rng):
        """Noise drawn out along the hair."""
        fine = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
        return cv2.GaussianBlur(cv2.blur(fine, (1, 9)), (0, 0), 0.7) * 2.2

    def _brows(self, look, rng):
        side = np.abs(self.x) - self.eye_x  # from the middle of the eye outwards
        line = (
            self.eye[2] + look["brow_height"] + look["brow_arch"] * (1 - (side / 0.024) ** 2) + look["brow_tilt"] * side
        )
        thick = look["brow_thickness"] * smooth(0.027 - side, 0, 0.03) * 1.3
        inner = smooth(np.abs(self.x), look["brow_gap"], look["brow_gap"] + 0.006)
        cover = smooth(thick - np.abs(self.z - line), -0.0012, 0.0016) * inner * smooth(0.027 - side, 0, 0.004)
        return (cover * self.front * (0.75 + 0.35 * self._strands(rng))).clip(0, 1) * look["brow_strength"]

    def _beard(self, look, rng):
        """Stubble to full beard; ``beard`` is how much, ``beard_shape`` whether cheeks and chin are covered."""
        below = self.mouth_z + 0.004 - self.z
        cheek = np.abs(self.x) > 0.022
        jaw = smooth(below + 0.55 * (np.abs(self.x) - 0.03).clip(0, 1), -0.004, 0.008) * smooth(self.z, 0.585, 0.6)
        moustache = smooth(0.0075 - np.abs(self.z - self.mouth_z - 0.012), 0, 0.004) * smooth(
            0.031 - np.abs(self.x), 0, 0.008
        )
        chin, cheeks, lip = look["beard_shape"]
        cover = np.maximum(np.where(cheek, np.float32(cheeks), np.float32(chin)) * jaw, lip * moustache)
        cover = cover * smooth(-self.y, 0.035, 0.075) * (1 - self.head.maps["lips"])
        grain = (0.7 + 0.5 * self._strands(rng)).clip(0, 1)
        return (cover * look["beard"] * grain).clip(0, 0.97)

    def _scalp(self, look, rng):
        """Where hair grows: above the hairline and behind it, as much as the cut leaves."""
        return (self.scalp(look, noise(rng, 30) * 0.003) * look["hair_cover"]).clip(0, 1)

    def scalp(self, look, wobble=0.0, position=None):
        """0..1 over the texture, or at positions (N, 3)."""
        x, y, z = (self.x, self.y, self.z) if position is None else position.T
        top = self.eye[2] + look["hairline"] - look["recession"] * smooth(np.abs(x), 0.012, 0.045) * -1
        temple = np.abs(x) / 0.075
        line = top - 0.055 * smooth(temple, 0.62, 1.0) - 0.16 * smooth(y, -0.075, 0.02)  # falls behind the temples
        nape = smooth(z, 0.635, 0.655)
        return smooth(z + wobble - line, -0.002, 0.006) * nape * smooth(y + 0.5 * (z - 0.7), -0.16, -0.15)

    def _iris(self, look, rng):
        """(EYE_BLOCK, EYE_BLOCK, 4): white outside, iris and pupil in the middle."""
        ramp_ = np.linspace(-1, 1, EYE_BLOCK)
        radius, angle = np.hypot(*np.meshgrid(ramp_, ramp_)), np.arctan2(*np.meshgrid(ramp_, ramp_))
        rays = 1 + 0.18 * np.sin(angle * 23 + 3 * np.sin(angle * 5)) * smooth(radius, 0.1, 0.3)
        iris = look["iris"] * rays[..., None] * (1.15 - 0.6 * smooth(radius, 0.30, 0.43))[..., None]
        white = np.float32([0.50, 0.46, 0.43]) * (1 - 0.35 * smooth(radius, 0.5, 1.0))[..., None]
        block = white + (iris - white) * (1 - smooth(radius, 0.42, 0.46))[..., None]
        block = block * (smooth(radius, 0.15, 0.19) * 0.97 + 0.03)[..., None]
        return np.concatenate([block, np.full((EYE_BLOCK, EYE_BLOCK, 1), 0.9)], -1).astype(np.float32)
