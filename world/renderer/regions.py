"""Where on the average head hair, brows and beard grow: functions of positions (..., 3), metres, giving 0..1."""

import numpy as np

from world.renderer.head import AXIS_Y

# The hair line goes round the head: angle from the front in degrees, and height; see ``Regions.hair_line``.
ANGLES = (0, 18, 34, 50, 66, 78, 86, 97, 116, 134, 158, 180)
EAR_TOP, SIDEBURN, BEHIND_EAR, NAPE = 0.716, 0.686, 0.668, 0.628


def smooth(x, low, high):
    """0 at ``low`` and beyond, 1 at ``high`` and beyond, without a kink."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def angle_of(p):
    """Degrees from the front, 0..180, on either side."""
    return np.degrees(np.arctan2(np.abs(p[..., 0]), AXIS_Y - p[..., 1]))


def ripple(p, waves):
    """A bumpy function of position of about unit variance; ``waves`` (W, 4): waves a metre along x, y, z, and phase."""
    return np.sin(p @ waves[:, :3].T + waves[:, 3]).sum(-1) * np.float32(np.sqrt(2 / len(waves)))


class Regions:
    """``scalp``, ``brows``, ``beard``, ``moustache``: how densely hair grows at positions on the average head."""

    def __init__(self, head):
        self.eye = head.eyes.mean(0)
        self.eye_x = abs(head.eyes[0, 0])
        self.nose = head.vertices[head.landmarks["nose"]]
        self.mouth = head.vertices[[head.landmarks["mouth_left"], head.landmarks["mouth_right"]]].mean(0)

    def hair_line(self, look, angle):
        """Height of the hair line at angles round the head."""
        top = self.eye[2] + look["hairline"]
        back = look["recession"]
        heights = (
            top - look["peak"], top + 0.25 * back, top + back, top - 0.008 + 0.8 * back, top - 0.026 + 0.5 * back,
            0.5 * (top - 0.03 + SIDEBURN) + 0.005,
            SIDEBURN - look["sideburn"], EAR_TOP, EAR_TOP - 0.004, BEHIND_EAR, NAPE + 0.008, NAPE,
        )  # fmt: skip
        return np.interp(angle, ANGLES, heights)

    def scalp(self, look, p):
        above = p[..., 2] - self.hair_line(look, angle_of(p)) + 0.0022 * ripple(p, look["hair_waves"])
        cover = smooth(above, -0.003, 0.010)
        if look["bald_top"]:  # hair is left on the sides and the back alone
            crown = np.hypot(p[..., 0] / 0.062, (p[..., 1] + 0.05) / 0.115)
            cover = cover * smooth(0.778 - p[..., 2] + 0.002 * ripple(p, look["hair_waves"]), -0.006, 0.014)
            cover = cover * smooth(crown, 0.55, 0.95)
        return cover

    def brows(self, look, p):
        side = np.abs(p[..., 0]) - self.eye_x  # from the middle of the eye outwards
        line = self.eye[2] + look["brow_height"] + look["brow_arch"] * (1 - (side / 0.022) ** 2)
        line = line + look["brow_tilt"] * side
        thick = look["brow_thickness"] * (0.35 + 0.65 * smooth(0.026 - side, 0, 0.028))
        ends = smooth(np.abs(p[..., 0]), look["brow_gap"], look["brow_gap"] + 0.007) * smooth(0.027 - side, 0, 0.007)
        return smooth(thick - np.abs(p[..., 2] - line), -0.0012, 0.0022) * ends * (p[..., 1] < -0.07)

    def beard(self, look, p):
        """Chin and cheeks."""
        x, z = np.abs(p[..., 0]), p[..., 2]
        chin, cheeks = look["beard_shape"][:2]
        rough = 0.002 * ripple(p, look["hair_waves"])
        upper = self.mouth[2] - 0.004 + look["beard_line"] * (x - 0.026).clip(0, 0.05)
        grows = smooth(upper - z + rough, -0.002, 0.009) * smooth(z + rough, 0.582, 0.600)
        grows = grows * smooth(AXIS_Y + 0.012 - p[..., 1], 0, 0.014)
        below_lip = smooth(self.mouth[2] - 0.010 - z, 0, 0.004)  # nothing grows right under the lower lip
        beside = smooth(x, 0.022, 0.028)
        return grows * (chin + (cheeks - chin) * smooth(x, 0.020, 0.034)) * np.maximum(below_lip, beside)

    def moustache(self, look, p):
        x, z = np.abs(p[..., 0]), p[..., 2]
        low, high = self.mouth[2] + 0.006, self.nose[2] - 0.014
        grows = smooth(z, low - 0.001, low + 0.002) * smooth(high - z, -0.001, 0.003) * smooth(0.030 - x, 0, 0.010)
        corner = smooth(0.005 - np.abs(x - 0.029), 0, 0.004) * smooth(low + 0.003 - z, 0, 0.003)
        corner = corner * smooth(z - self.mouth[2] + 0.014, 0, 0.004) * look["beard_shape"][0]
        return np.maximum(grows, corner) * look["beard_shape"][2] * (p[..., 1] < -0.08)
