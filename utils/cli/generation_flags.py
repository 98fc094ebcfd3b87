"""The flags of the three generation scripts, in groups, and the values they stand for."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.masking import MaskRates
from utils.cli.attribute_flags import add_attribute_flags, attribute_file_of, check_attribute_flags
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import (
    add_flags_without_effect,
    finite,
    folder_name,
    jpeg_quality,
    noise_level,
    not_negative,
    note_flags_without_effect,
    open_fraction,
    positive,
)
from utils.cli.gate_flags import EXAMPLE, add_gate_flags, add_reserve_flag
from utils.cli.model_flags import add_device_flags, add_model_flags
from utils.dataset.layout import ABOUT_SUFFIX
from utils.dataset.writer import STORES
from utils.generation.attrop_progress import AttrOPProgress
from utils.generation.batch_rows import attrop_rows
from utils.generation.gate import Gating
from utils.generation.make_dataset import Machine, Output
from utils.generation.networks import Networks, WeightFiles, load_networks
from utils.generation.recipe import Recipe

QUALITY_WEIGHTS = "weights/magface-r100-glint360k.pth"
POSE_WEIGHTS = "weights/6DRepNet_300W_LP_AFLW2000.pth"
VECTOR_SIZE = 512
LOWER_BOUND = 0.6  # IDperturb's best


def add_vector_flags(parser: ArgumentParser) -> None:
    """Identities from a file of vectors."""
    group = parser.add_argument_group("identities")
    group.add_argument("--center_feature", required=True, help="file of identity vectors: .npy of floats, (K, 512)")
    add_reserve_flag(group)
    _add_slice_flags(group)


def add_photo_flags(parser: ArgumentParser) -> None:
    """Identities from reference photos."""
    group = parser.add_argument_group("identities")
    group.add_argument(
        "--image_file", required=True, help="a photo, a folder of photos (searched recursively), or a .txt of paths"
    )
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


def add_recipe_flags(parser: ArgumentParser, sigmas: tuple[float, ...]) -> None:
    """Name, number and variation of the images. ``sigmas``: the default noise levels."""
    group = parser.add_argument_group("images")
    group.add_argument("--name", type=dataset_name, required=True, help="name of the dataset")
    group.add_argument("--example", type=positive, default=EXAMPLE, help="number of images per identity")
    group.add_argument(
        "--seed", type=not_negative, default=0,
        help="seed of all random draws, together with the numbers of the identity and the image",
    )  # fmt: skip
    group.add_argument(
        "--noise", choices=["gaussian", "cone"], default="gaussian",
        help="noise on the identity vector: Gaussian, or uniform cosines down to --lower_bound, never nearer to "
        "another identity",
    )  # fmt: skip
    group.add_argument(
        "--sigma", type=noise_level, nargs="+", default=list(sigmas),
        help="standard deviations of Gaussian noise on each dimension; every block of as many images uses each once, "
        "in random order",
    )  # fmt: skip
    group.add_argument(
        "--lower_bound", type=open_fraction,
        help=f"smallest cosine to the identity vector with --noise cone (default: {LOWER_BOUND})",
    )  # fmt: skip
    parser.set_defaults(default_sigmas=tuple(sigmas))
    rates = MaskRates()
    group.add_argument(
        "--mask_ratio_min", type=finite, default=rates.minimum, help="lowest mask rate, and share of dropped rows"
    )
    group.add_argument("--mask_ratio_max", type=finite, default=rates.maximum, help="highest mask rate")
    group.add_argument(
        "--mask_ratio_mu", type=finite, default=rates.mu, help="centre of the mask rate's truncated normal distribution"
    )
    group.add_argument(
        "--mask_ratio_std", type=finite, default=rates.std, help="standard deviation of that distribution"
    )


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
        "--pose", type=finite, default=85, help="yaw in degrees, to either side unless --signed_pose is given"
    )
    group.add_argument(
        "--signed_pose", action="store_true", help="signed yaw: the sign of --pose tells the sides apart"
    )
    group.add_argument("--pitch", type=finite, help="pitch in degrees (default: any)")
    group.add_argument("--pose_weights", default=POSE_WEIGHTS, help="weights of the head pose estimator")


def add_run_flags(parser: ArgumentParser, output_dir: str, own_quality_model: bool = False) -> None:
    """The gate, the networks, the machine and the output. ``output_dir``: where datasets are made by default.

    ``own_quality_model``: whether the gate brings the flag of the quality model, for a script without AttrOP.
    """
    add_gate_flags(parser, QUALITY_WEIGHTS if own_quality_model else None)
    add_model_flags(parser)
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


def dataset_name(text: str) -> str:
    """argparse type: a plain folder name, and not one of a folder that lies beside a dataset."""
    name = folder_name(text)
    if name.endswith(ABOUT_SUFFIX):
        raise ArgumentTypeError(f"must not end in {ABOUT_SUFFIX}, as the folder beside a dataset does")
    return name


def networks_of(
    args: Namespace, machine: Machine, gating: Gating, *, id: bool, quality: bool, pose: bool
) -> Networks:  # fmt: skip
    """Load the generator, the networks asked for, and those that flags need. Raises UserError."""
    check_attribute_flags(args)
    args.attribute_weights = attribute_file_of(args)
    needed = {
        "id": id or gating.needs("id_similarity", "avoid_similarity") or bool(args.measure),
        "quality": quality or gating.needs("quality") or bool(args.measure),
        "pose": pose,
        "gate": gating.needs("gate_similarity"),
        "attribute": bool(args.attribute),
    }
    use_demo_weights(args, unused=[f"{role}_weights" for role, is_needed in needed.items() if not is_needed])
    note_flags_without_effect(args)
    if args.rep_dim != VECTOR_SIZE:
        raise UserError(f"--rep_dim {args.rep_dim}: the generator reads identity vectors of length {VECTOR_SIZE}.")
    files = {role: getattr(args, f"{role}_weights") for role, is_needed in needed.items() if is_needed}
    files = WeightFiles(args.model_weights, preset=args.model, **files)
    return load_networks(files, machine.device, machine.precision.dtype, args.compile)


def recipe_of(args: Namespace) -> Recipe:
    """The Recipe that the flags ask for. Raises UserError for flags that do not fit together."""
    try:
        rates = MaskRates(args.mask_ratio_min, args.mask_ratio_max, args.mask_ratio_mu, args.mask_ratio_std)
    except ValueError as error:
        raise UserError(f"--mask_ratio_*: {error}.") from error
    if args.noise == "gaussian":
        if args.lower_bound is not None:
            raise UserError("--lower_bound: belongs to --noise cone.")
        return Recipe(args.example, tuple(args.sigma), args.seed, rates)
    if tuple(args.sigma) != args.default_sigmas:
        raise UserError("--sigma: belongs to --noise gaussian; the cone is as wide as --lower_bound says.")
    lower_bound = LOWER_BOUND if args.lower_bound is None else args.lower_bound
    return Recipe(args.example, (), args.seed, rates, lower_bound)


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
