"""The flags of landmark control in pose_image_generation.py and pose_control.py, and the values they stand for."""

from argparse import ArgumentParser, Namespace
from typing import Any

from models.errors import UserError
from models.masking import MaskRates
from models.pose_control import LoRA
from utils.cli.flags import finite, positive
from utils.generation.landmark_choice import LandmarkBank, LandmarkChoice, ListedPictures, OnePose, parse_quotas

CONTROLS = ("attrop", "landmarks")
POSE_MODEL = "vec2face_plus/pose_model.pth"
RELEASED_RATES = MaskRates(0.8, 0.9, 0.85, 0.05)  # of pictures whose token takes the place of the masked rows
DEFAULT_POSE = 85


def add_landmark_flags(parser: ArgumentParser, control: str) -> None:
    """Landmark control. ``control``: the default of --control."""
    group = parser.add_argument_group("landmark control: the pose in one pass of the generator")
    group.add_argument(
        "--control", choices=CONTROLS, default=control,
        help="what gives the pose: AttrOP on every vector, or pictures of the five landmarks, which need a generator "
        "with a landmark encoder. AttrOP then works on the identity vector, only for --image_quality or --attribute",
    )  # fmt: skip
    group.add_argument(
        "--pose_file",
        help="list of landmark pictures, a path in each line, which the images of an identity get in turn (default: a "
        "picture is drawn at --pose, --pitch and --roll)",
    )
    group.add_argument("--roll", type=finite, default=0.0, help="roll in degrees, of pictures that are drawn")
    group.add_argument(
        "--landmark_bank",
        help="file of poses from which each image gets a random one: JSON lines with landmarks, five points (x, y), or "
        "with yaw, pitch and roll, such as the labels.jsonl of rendered photos or a dataset's manifest.jsonl",
    )
    group.add_argument(
        "--yaw_quota", nargs="+", default=[], metavar="A-B:SHARE",
        help="shares of ranges of |yaw| among the images of each identity, such as 0-15:50 15-45:30 45-90:20, which "
        "count in proportion to their sum; poses are those of --landmark_bank in these ranges, or drawn",
    )  # fmt: skip
    group.add_argument(
        "--landmark_adapter",
        help="adapter of scripts/train_pose_control.py for --model_weights (default: that file contains it)",
    )
    group.add_argument("--lora_r", type=positive, help="expected LoRA rank, to check the weights against")
    group.add_argument("--lora_alpha", type=finite, help="expected LoRA alpha, to check the weights against")


def landmark_choice_of(args: Namespace) -> LandmarkChoice:
    """What the flags say of the images' landmarks. Raises UserError for flags that contradict each other."""
    listed, banked = args.pose_file is not None, args.landmark_bank is not None or bool(args.yaw_quota)
    posed = [f"--{name}" for name in ("pose", "pitch") if getattr(args, name) is not None]
    posed += ["--roll"] if args.roll else []
    if listed and banked:
        raise UserError("--pose_file and --landmark_bank or --yaw_quota: give one of them.")
    if posed and (listed or banked):
        flag = "--pose_file" if listed else "--landmark_bank" if args.landmark_bank else "--yaw_quota"
        raise UserError(f"{flag} gives the poses; leave {' and '.join(posed)} out.")
    if listed:
        return ListedPictures(args.pose_file)
    if banked:
        return LandmarkBank(args.landmark_bank, parse_quotas(args.yaw_quota))
    pose = DEFAULT_POSE if args.pose is None else args.pose
    return OnePose(pose, args.pitch or 0.0, args.roll, args.signed_pose)


def refuse_landmark_flags(args: Namespace) -> None:
    """Raise UserError for flags of landmark control in a run that AttrOP controls."""
    given = [name for name in ("pose_file", "landmark_bank", "yaw_quota", "landmark_adapter") if getattr(args, name)]
    if given or args.roll:
        raise UserError(f"--{given[0] if given else 'roll'} needs --control landmarks.")


def check_control(args: Namespace, generator: Any) -> None:
    """Raise UserError unless landmarks control the generator, by a LoRA of the rank and alpha that the flags say."""
    if generator.landmark_encoder is None:
        raise UserError(
            f"{args.model_weights}: landmarks do not control this generator, which has no landmark encoder. Fetch one "
            "with download_vec2face_weights.py --what vec2face_plus, or train an adapter with "
            "scripts/train_pose_control.py and give it with --landmark_adapter."
        )
    lora = generator.lora or LoRA(0, 0.0)
    path = args.landmark_adapter or args.model_weights
    for flag, wanted, found in (("r", args.lora_r, lora.rank), ("alpha", args.lora_alpha, lora.alpha)):
        if wanted is not None and wanted != found:
            raise UserError(f"--lora_{flag} {wanted:g}: the LoRA of {path} has {found:g}; leave --lora_{flag} out.")


def landmark_rates(generator: Any) -> MaskRates:
    """The default mask rates: the released ones, or the usual ones for a token that is added to all rows."""
    return MaskRates() if generator.decoder.adds_landmarks else RELEASED_RATES
