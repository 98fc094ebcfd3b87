"""The flags of the three generation scripts, in groups, and the values they stand for."""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.errors import UserError
from utils.cli.attribute_flags import add_attribute_flags, attribute_file_of, check_attribute_flags
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import (
    add_flags_without_effect,
    finite,
    jpeg_quality,
    not_negative,
    note_flags_without_effect,
    positive,
)
from utils.cli.gate_flags import add_gate_flags, add_reserve_flag
from utils.cli.model_flags import add_device_flags, add_model_flags
from utils.dataset.writer import STORES
from utils.generation.attrop_progress import AttrOPProgress
from utils.generation.batch_rows import attrop_rows
from utils.generation.gate import Gating
from utils.generation.make_dataset import Machine, Output
from utils.generation.networks import Networks, WeightFiles, load_networks

QUALITY_WEIGHTS = "weights/magface-r100-glint360k.pth"
POSE_WEIGHTS = "weights/6DRepNet_300W_LP_AFLW2000.pth"
VECTOR_SIZE = 512


def add_vector_flags(parser: ArgumentParser) -> None:
    """Identities from a file of vectors."""
    group = parser.add_argument_group("identities")
    group.add_argument("--center_feature", required=True, help="file of identity vectors: .npy of floats, (K, 512)")
    add_reserve_flag(group)
    _add_slice_flags(group)


def add_photo_flags(parser: ArgumentParser, or_vectors: bool = False) -> None:
    """Identities from reference photos, or from either source with ``or_vectors``."""
    group = parser.add_argument_group("identities")
    one_of = group.add_mutually_exclusive_group(required=True)
    if or_vectors:
        one_of.add_argument("--center_feature", help="file of identity vectors: .npy of floats, (K, 512)")
    one_of.add_argument("--image_file", help="a photo, a folder of photos (searched recursively), or a .txt of paths")
    if or_vectors:
        add_reserve_flag(group)
    group.add_argument(
        "--align",
        action="store_true",
        help="face detection in raw photos, and alignment to the ArcFace template",
    )
    group.add_argument(
        "--per_person", action="store_true",
        help="one identity for each folder of photos, the mean of their features (default: one for each photo)",
    )  # fmt: skip
    _add_slice_flags(group)


def _add_slice_flags(group):
    group.add_argument(
        "--start_end", metavar="A:B", help="slice of the identities, A to B-1, which keep their numbers (default: all)"
    )
    group.add_argument(
        "--start_class_id", type=not_negative, default=0, help="number of the first identity vector of the file"
    )
    group.add_argument("--rep_dim", type=int, default=VECTOR_SIZE, help="length of an identity vector; always 512")


def add_attrop_flags(parser: ArgumentParser, own_default: str) -> Any:
    """AttrOP's targets and its limit; returns the group.

    ``own_default``: which of the norms in an own quality model's file is the default target.
    """
    group = parser.add_argument_group("AttrOP: targets that an image has to reach")
    group.add_argument(
        "--image_quality", type=finite,
        help="lowest quality, the norm of the quality model's feature (default: 27 with the released model; with one "
        f"whose file has the norms of its training photos, {own_default})",
    )  # fmt: skip
    group.add_argument("--quality_weights", default=QUALITY_WEIGHTS, help="weights of the quality model")
    group.add_argument(
        "--max_iters", type=positive, default=100,
        help="largest number of iterations; an image that has not passed by then is written as it was at its best",
    )  # fmt: skip
    group.add_argument("--skip_attrop", action="store_true", help="generation without AttrOP: noise and decoding only")
    add_attribute_flags(group)
    return group


def add_optional_attrop_flags(parser: ArgumentParser) -> None:
    """AttrOP's targets in a script that applies AttrOP only when one of them is given."""
    group = parser.add_argument_group("AttrOP: targets that the image of a vector has to reach (default: none)")
    group.add_argument("--image_quality", type=finite, help="lowest quality, the norm of the quality model's feature")
    group.add_argument("--max_iters", type=positive, default=100, help="largest number of iterations")
    add_attribute_flags(group)


def add_pose_flags(group: Any) -> None:
    """The head pose that AttrOP aims at."""
    group.add_argument(
        "--pose", type=finite, help="yaw in degrees, to either side unless --signed_pose is given (default: 85)"
    )
    group.add_argument(
        "--signed_pose", action="store_true", help="signed yaw: the sign of --pose tells the sides apart"
    )
    group.add_argument("--pitch", type=finite, help="pitch in degrees (default: any)")
    group.add_argument("--pose_weights", default=POSE_WEIGHTS, help="weights of the head pose estimator")


def add_run_flags(
    parser: ArgumentParser, output_dir: str, own_quality_model: bool = False, default_weights: str | None = None,
    add_models: Callable[[ArgumentParser], None] | None = None,
) -> None:  # fmt: skip
    """The gate, the networks, the machine and the output. ``output_dir``: where datasets are made by default.

    ``default_weights``: what the help says of the generator in a script whose default depends on other flags.
    ``add_models``: adds the flags of the generator and the face encoder in the place of ``add_model_flags``.
    ``own_quality_model``: whether the gate brings the flag of the quality model, for a script without AttrOP.
    """
    add_gate_flags(parser, QUALITY_WEIGHTS if own_quality_model else None)
    if add_models is None:
        add_model_flags(parser, default_weights)
    else:
        add_models(parser)
    add_device_flags(parser, precision="auto")
    parser.add_argument(
        "--batch_size", type=positive, default=64, help="images at a time on a GPU; without effect on a CPU"
    )
    parser.add_argument(
        "--compile", action="store_true",
        help="compilation of all models by torch.compile, which takes minutes before the first image and rounds in its "
        "own way; needs a C compiler for a GPU, a C++ compiler for a CPU",
    )  # fmt: skip
    parser.add_argument(
        "--feat_batch_size",
        type=positive,
        default=2000,
        help="largest number of photos per batch of feature extraction",
    )
    parser.add_argument("--workers", type=positive, default=2, help="number of threads that encode and write images")
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", default=output_dir, help="folder in which the folder of the dataset is made")
    output.add_argument(
        "--format", choices=list(STORES), default="folder", help="folders of JPEG files, or an LMDB for FR training"
    )
    output.add_argument("--jpeg_quality", type=jpeg_quality, default=75, help="JPEG quality, 1 to 100")
    output.add_argument(
        "--measure", action=BooleanOptionalAction,
        help="measurement of every image's id similarity and quality (and yaw and pitch in pose mode) for the manifest "
        "(default: where it costs less than a tenth of drawing the images)",
    )  # fmt: skip
    output.add_argument("--overwrite", action="store_true", help="replacement of an existing dataset of this name")
    output.add_argument(
        "--migrate", action="store_true", help="conversion of a dataset that an earlier version wrote, to go on with it"
    )
    add_flags_without_effect(parser.add_argument_group("without effect"))


def networks_of(
    args: Namespace, machine: Machine, gating: Gating, *, id: bool, quality: bool, pose: bool
) -> Networks:  # fmt: skip
    """Load the generator, the networks asked for, and those that flags need. Raises UserError."""
    check_attribute_flags(args)
    args.attribute_weights = attribute_file_of(args)
    files = weight_files_of(args, gating, id=id, quality=quality, pose=pose)
    if args.rep_dim != VECTOR_SIZE:
        raise UserError(f"--rep_dim {args.rep_dim}: the generator reads identity vectors of length {VECTOR_SIZE}.")
    return load_networks(files, machine.device, machine.precision.dtype, args.compile)


def weight_files_of(args: Namespace, gating: Gating, *, id: bool, quality: bool, pose: bool) -> WeightFiles:
    """The files of the generator, of the networks asked for, and of those that flags need."""
    needed = {
        "id": id or gating.needs("id_similarity", "avoid_similarity") or bool(args.measure),
        "quality": quality or gating.needs("quality") or bool(args.measure),
        "pose": pose,
        "gate": gating.needs("gate_similarity"),
        "attribute": bool(getattr(args, "attribute", None)),
    }
    use_demo_weights(args, unused=[f"{role}_weights" for role, is_needed in needed.items() if not is_needed])
    note_flags_without_effect(args)
    files = {role: getattr(args, f"{role}_weights") for role, is_needed in needed.items() if is_needed}
    adapter = getattr(args, "landmark_adapter", None)
    return WeightFiles(args.model_weights, preset=args.model, adapter=adapter, **files)


def attrop_options_of(args: Namespace, machine: Machine) -> dict[str, Any]:
    """The options of an AttrOP that are not targets."""
    return {
        "batch_size": attrop_rows(machine.batch_size, machine.device),
        "drop_ratio": args.mask_ratio_min,
        "max_iters": args.max_iters,
        "on_iteration": AttrOPProgress(args.image_quality),
    }


def output_of(args: Namespace, machine: Machine, name: str | None = None) -> Output:
    """Where and how the dataset is written. ``name``: of its folder, by default --name."""
    measured_in = "fp32" if args.precision == "auto" else machine.precision.name  # what is stored is exact by default
    return Output(
        Path(args.output_dir) / (name or args.name), args.format, args.jpeg_quality, args.workers, args.overwrite,
        args.migrate, args.measure, measured_in,
    )  # fmt: skip


def extra_settings_of(args: Namespace, mode: str, **others: Any) -> dict[str, Any]:
    """What settings.json says beside what ``make_dataset`` knows."""
    return {"mode": mode, "start_class_id": args.start_class_id, **others}
