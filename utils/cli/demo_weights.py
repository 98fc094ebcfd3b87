"""The small demo models of this repository, which replace the released weights where those were not downloaded."""

import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # where download_vec2face_weights.py puts them, run from there
DEMO = ROOT / "weights" / "demo"
DEMO_ADAPTER = DEMO / "landmark_adapter.pth"  # of the demo generator, in which the released pose model has its own
PARTNERS = {"model_weights": "id_weights", "id_weights": "model_weights"}  # one reads what the other computes
STAND_INS = {  # released file, as it is named by default -> demo file
    "weights/vec2face_generator.pth": "vec2face_generator.pth",
    "vec2face_plus/main_model.pth": "vec2face_generator.pth",
    "vec2face_plus/pose_model.pth": "vec2face_generator.pth",
    "weights/arcface-r100-glint360k.pth": "face_encoder.pth",
    "weights/magface-r100-glint360k.pth": "face_encoder.pth",
    "weights/6DRepNet_300W_LP_AFLW2000.pth": "head_pose.pth",
    "center_feature_examples.npy": "identity_vectors.npy",
}


def use_demo_weights(args: Namespace, unused: Iterable[str] = ()) -> None:
    """Point the flags that name released files to the demo models, and print a note, if none of the files exists.

    A released file that is not in the current folder is looked for in the project's. If only some of them exist, the
    flags of the others stay as they are, because a released generator does not work with a demo encoder; neither does
    the demo encoder replace a missing one beside a generator of the user's own. ``args``: parsed flags, changed in
    place; ``unused``: names of flags that this run does not read.
    """
    flags = {flag: value for flag, value in vars(args).items() if flag not in unused}
    named = {flag: value for flag, value in flags.items() if value in list(STAND_INS)}
    for flag, value in named.items():
        if not Path(value).exists() and (ROOT / value).exists():
            named[flag] = str(ROOT / value)
            setattr(args, flag, named[flag])
    if any(Path(value).exists() for value in named.values()):
        return
    named = {flag: value for flag, value in named.items() if not is_own(flags.get(PARTNERS.get(flag)))}
    if not named:
        return
    if "vec2face_plus/pose_model.pth" in named.values() and args.landmark_adapter is None and DEMO_ADAPTER.exists():
        args.landmark_adapter = str(DEMO_ADAPTER)
    for flag, value in named.items():
        setattr(args, flag, str(DEMO / STAND_INS[value]))
    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes prints it
        return
    files = ", ".join(dict.fromkeys(Path(value).name for value in named.values()))
    print(
        f"note: released files that are missing: {files}. Using the small demo models in {DEMO}. "
        "`python download_vec2face_weights.py` downloads the released ones."
    )


def is_own(value: str | None) -> bool:
    """Whether a flag names a weight file of the user's own: neither a released one nor a demo model."""
    return value is not None and value not in STAND_INS and Path(value).resolve().parent != DEMO
