"""The networks, and AttrOP on top of them.

A name is imported when it is first used: loading torch takes seconds, which scripts that need no network do without.
"""

from importlib import import_module

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


def __getattr__(name):
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULE_OF[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
