"""The networks, and AttrOP on top of them."""

from models.attrop import AttrOP, Result, Row, Target, at_least, close_to, pitch_target, quality_target, yaw_target
from models.iresnet import load_face_encoder
from models.sixdrepnet import load_pose_estimator
from models.vec2face import PRESETS, TokenMask, Vec2Face, load_vec2face

__all__ = [
    "PRESETS",
    "AttrOP",
    "Result",
    "Row",
    "Target",
    "TokenMask",
    "Vec2Face",
    "at_least",
    "close_to",
    "load_face_encoder",
    "load_pose_estimator",
    "load_vec2face",
    "pitch_target",
    "quality_target",
    "yaw_target",
]
