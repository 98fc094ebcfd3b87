"""The regions of the average head in which hair, brows and beard grow.

They are functions of positions (..., 3) in metres on the average head that return a density (...) in 0..1.
"""

from typing import Any

import numpy as np

from world.renderer.head import AXIS_Y, Head

Look = dict[str, Any]  # numbers and colours of a person's appearance; see person.make_look

# Angles from the front, in degrees, at which the height of the hair line is defined; see ``Regions.hair_line``.
ANGLES = (0, 18, 34, 50, 66, 78, 86, 97, 116, 134, 158, 180)
EAR_TOP, SIDEBURN, BEHIND_EAR, NAPE = 0.716, 0.686, 0.668, 0.628  # heights in metres


def smooth(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smoothstep 3 t^2 - 2 t^3 from 0 at ``low`` to 1 at ``high``, constant beyond. ``high`` may be below ``low``."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def angle_of(p: np.ndarray) -> np.ndarray:
    """Unsigned angle from the front, 0..180 degrees, of positions (..., 3) -> (...)."""
    return np.degrees(np.arctan2(np.abs(p[..., 0]), AXIS_Y - p[..., 1]))


def ripple(p: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """A sum of sine waves at positions (..., 3) -> (...), of about unit variance.

    ``waves`` (W, 4): wave vector in radians per metre, and phase.
    """
    return np.sin(p @ waves[:, :3].T + waves[:, 3]).sum(-1) * np.float32(np.sqrt(2 / len(waves)))


class Regions:
    """The density of each kind of hair at positions on the average head."""

    def __init__(self, head: Head):
        self.eye = head.eyes.mean(0)
        self.eye_x = abs(head.eyes[0, 0])
        self.nose = head.vertices[head.landmarks["nose"]]
        self.mouth = head.vertices[[head.landmarks["mouth_left"], head.landmarks["mouth_right"]]].mean(0)

    def hair_line(self, look: Look, angle: np.ndarray) -> np.ndarray:
        """Height in metres of the hair line at angles in degrees from the front."""
        top = self.eye[2] + look["hairline"]
        back = look["recession"]
        heights = (
            top - look["peak"], top + 0.25 * back, top + back, top - 0.008 + 0.8 * back, top - 0.026 + 0.5 * back,
            0.5 * (top - 0.03 + SIDEBURN) + 0.005,
            SIDEBURN - look["sideburn"], EAR_TOP, EAR_TOP - 0.004, BEHIND_EAR, NAPE + 0.008, NAPE,
        )  # fmt: skip
        return np.interp(angle, ANGLES, heights)

    def scalp(self, look: Look, p: np.ndarray) -> np.ndarray:
        """Density (...) of hair on the scalp at positions (..., 3)."""
        above = p[..., 2] - self.hair_line(look, angle_of(p)) + 0.0022 * ripple(p, look["hair_waves"])
        cover = smooth(above, -0.003, 0.010)
        if look["bald_top"]:  # hair remains only on the sides and the back
            crown = np.hypot(p[..., 0] / 0.062, (p[..., 1] + 0.05) / 0.115)
            cover = cover * smooth(0.778 - p[..., 2] + 0.002 * ripple(p, look["hair_waves"]), -0.006, 0.014)
            cover = cover * smooth(crown, 0.55, 0.95)
        return cover

    def brows(self, look: Look, p: np.ndarray) -> np.ndarray:
        """Density (...) of the eyebrows at positions (..., 3)."""
        side = np.abs(p[..., 0]) - self.eye_x  # from the middle of the eye outwards
        line = self.eye[2] + look["brow_height"] + look["brow_arch"] * (1 - (side / 0.022) ** 2)
        line = line + look["brow_tilt"] * side
        thick = look["brow_thickness"] * (0.35 + 0.65 * smooth(0.026 - side, 0, 0.028))
        ends = smooth(np.abs(p[..., 0]), look["brow_gap"], look["brow_gap"] + 0.007) * smooth(0.027 - side, 0, 0.007)
        return smooth(thick - np.abs(p[..., 2] - line), -0.0012, 0.0022) * ends * (p[..., 1] < -0.07)

    def beard(self, look: Look, p: np.ndarray) -> np.ndarray:
        """Density (...) of the beard on chin and cheeks at positions (..., 3)."""
        x, z = np.abs(p[..., 0]), p[..., 2]
        chin, cheeks = look["beard_shape"][:2]
        rough = 0.002 * ripple(p, look["hair_waves"])
        upper = self.mouth[2] - 0.004 + look["beard_line"] * (x - 0.026).clip(0, 0.05)
        grows = smooth(upper - z + rough, -0.002, 0.009) * smooth(z + rough, 0.582, 0.600)
        grows = grows * smooth(AXIS_Y + 0.012 - p[..., 1], 0, 0.014)
        below_lip = smooth(self.mouth[2] - 0.010 - z, 0, 0.004)  # no beard directly below the lower lip
        beside = smooth(x, 0.022, 0.028)
        return grows * (chin + (cheeks - chin) * smooth(x, 0.020, 0.034)) * np.maximum(below_lip, beside)

    def moustache(self, look: Look, p: np.ndarray) -> np.ndarray:
        """Density (...) of the moustache at positions (..., 3)."""
        x, z = np.abs(p[..., 0]), p[..., 2]
        low, high = self.mouth[2] + 0.006, self.nose[2] - 0.014
        grows = smooth(z, low - 0.001, low + 0.002) * smooth(high - z, -0.001, 0.003) * smooth(0.030 - x, 0, 0.010)
        corner = smooth(0.005 - np.abs(x - 0.029), 0, 0.004) * smooth(low + 0.003 - z, 0, 0.003)
        corner = corner * smooth(z - self.mouth[2] + 0.014, 0, 0.004) * look["beard_shape"][0]
        return np.maximum(grows, corner) * look["beard_shape"][2] * (p[..., 1] < -0.08)
