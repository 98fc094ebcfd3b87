"""What stands in for the released weights where they were not fetched: the small demo models of this repository."""

import os
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "weights" / "demo"
STAND_INS = {  # released file, as flags name it by default: demo file
    "weights/vec2face_generator.pth": "vec2face_generator.pth",
    "weights/arcface-r100-glint360k.pth": "face_encoder.pth",
    "weights/magface-r100-glint360k.pth": "face_encoder.pth",
    "weights/6DRepNet_300W_LP_AFLW2000.pth": "head_pose.pth",
    "center_feature_examples.npy": "identity_vectors.npy",
}


def use_demo_weights(args, unused=()):
    """Point flags that name released files at the demo ones, and say so, when not one of those files is here.

    ``args``: parsed flags, changed in place; ``unused``: names of flags this run does not read. All or none: a released
    generator means nothing to a demo encoder.
    """
    named = {flag: value for flag, value in vars(args).items() if flag not in unused and value in list(STAND_INS)}
    if not named or any(Path(value).exists() for value in named.values()):
        return
    for flag, value in named.items():
        setattr(args, flag, str(DEMO / STAND_INS[value]))
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes one says it
        return
    files = ", ".join(dict.fromkeys(Path(value).name for value in named.values()))
    print(
        f"note: released files that are not here: {files}. Using the small demo models of {DEMO}. "
        "`python download_vec2face_weights.py` fetches the released ones."
    )
