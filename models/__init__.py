"""The networks and AttrOP.

Each name is imported when it is first used, because importing torch takes seconds and some scripts need no network.
"""

from importlib import import_module
from typing import Any

HOMES = {
    "attrop": (
        "AttrOP", "Result", "Row", "Target", "at_least", "close_to", "pitch_target", "quality_target", "yaw_target",
    ),
    "iresnet": ("load_face_encoder",),
    "masking": ("MaskRates", "TokenMask"),
    "sixdrepnet": ("load_pose_estimator",),
    "vec2face": ("PRESETS", "Vec2Face", "load_vec2face"),
}  # fmt: skip
MODULE_OF = {name: module for module, names in HOMES.items() for name in names}
__all__ = sorted(MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
