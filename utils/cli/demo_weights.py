"""The small demo models of this repository, which replace the released weights where those were not downloaded."""

import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "weights" / "demo"
STAND_INS = {  # released file, as it is named by default -> demo file
    "weights/vec2face_generator.pth": "vec2face_generator.pth",
    "weights/arcface-r100-glint360k.pth": "face_encoder.pth",
    "weights/magface-r100-glint360k.pth": "face_encoder.pth",
    "weights/6DRepNet_300W_LP_AFLW2000.pth": "head_pose.pth",
    "center_feature_examples.npy": "identity_vectors.npy",
}


def use_demo_weights(args: Namespace, unused: Iterable[str] = ()) -> None:
    """Point the flags that name released files to the demo models, and print a note, if none of the files exists.

    If only some of them exist, all flags stay as they are, because a released generator does not work with a demo
    encoder. ``args``: parsed flags, changed in place; ``unused``: names of flags that this run does not read.
    """
    named = {flag: value for flag, value in vars(args).items() if flag not in unused and value in list(STAND_INS)}
    if not named or any(Path(value).exists() for value in named.values()):
        return
    for flag, value in named.items():
        setattr(args, flag, str(DEMO / STAND_INS[value]))
    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes prints it
        return
    files = ", ".join(dict.fromkeys(Path(value).name for value in named.values()))
    print(
        f"note: released files that are missing: {files}. Using the small demo models in {DEMO}. "
        "`python download_vec2face_weights.py` downloads the released ones."
    )
