"""Make a face dataset at a wanted head pose and quality.

    python pose_image_generation.py --model_weights weights/vec2face_generator.pth --batch_size 5 --example 1 \\
        --start_end 0:10 --center_feature center_feature_examples.npy --name test --pose 45 --image_quality 25
    python pose_image_generation.py --control landmarks --center_feature center_feature_examples.npy --example 20 \\
        --name poses --yaw_quota 0-15:50 15-45:30 45-90:20

Noise on the identity vector gives the vectors of its images; AttrOP moves each until the image has the wanted yaw,
pitch and quality and still shows the identity (paper section 3.3). With --control landmarks, pictures of the five
landmarks give the pose in one pass of the generator (Vec2Face+).

Several GPUs: put `torchrun --nproc_per_node=N` in the place of `python`. Stopped, or more to do: run the same command
again.
"""

from argparse import Namespace

from utils.cli.command import command  # first, as it makes settings that must precede torch

from models.attrop import AttrOP, pitch_target, quality_target, yaw_target
from models.errors import UserError
from models.masking import MaskRates
from utils.cli.attribute_flags import attribute_settings, attribute_targets
from utils.cli.flags import Parser, make_parser
from utils.cli.gate_flags import gating_of
from utils.cli.generation_flags import (
    add_attrop_flags,
    add_photo_flags,
    add_pose_flags,
    add_run_flags,
    attrop_options_of,
    extra_settings_of,
    networks_of,
    output_of,
)
from utils.cli.landmark_flags import (
    DEFAULT_POSE,
    POSE_MODEL,
    add_landmark_flags,
    check_control,
    landmark_choice_of,
    landmark_rates,
    refuse_landmark_flags,
)
from utils.cli.model_flags import GENERATOR, set_up_inference
from utils.cli.recipe_flags import add_recipe_flags, fill_in, recipe_of
from utils.generation.decoding import frontal_only
from utils.generation.landmark_choice import OnePose
from utils.generation.make_dataset import Machine, Source, make_dataset
from utils.generation.networks import Networks, default_quality
from utils.generation.person_source import PersonSource, people_warnings
from utils.generation.photo_source import PhotoSource
from utils.generation.vector_source import VectorSource
from utils.runtime.device import uncompiled
from utils.runtime.distributed import init_distributed

SIGMAS = (0.7,)  # as released
LANDMARK_SIGMAS = (0.0,)  # as released


def pose_parser(
    description: str = __doc__, control: str = "attrop", output_dir: str = "generated_pose_images"
) -> Parser:
    parser = make_parser(description)
    add_photo_flags(parser, or_vectors=True)
    add_recipe_flags(parser, SIGMAS, "with --control landmarks: no noise, and mask rates that suit the generator")
    group = add_attrop_flags(
        parser, "from their median for a yaw of 0 down to their 5 %% quantile at 90 degrees, in proportion"
    )
    add_pose_flags(group)
    add_landmark_flags(parser, control)
    add_run_flags(parser, output_dir, default_weights=f"{GENERATOR}, with --control landmarks {POSE_MODEL}")
    return parser


@command
def main(argv=None):
    make_posed_dataset(pose_parser().parse_args(argv))


def make_posed_dataset(args: Namespace) -> None:
    """Make the dataset that the flags of ``pose_parser`` ask for."""
    lowest = -90 if args.signed_pose else 0
    if args.pose is not None and not lowest <= args.pose <= 90:
        raise UserError(
            f"--pose {args.pose:g}: a yaw lies between {lowest} and 90 degrees (below 0 with --signed_pose)."
        )
    (by_landmarks if args.control == "landmarks" else by_attrop)(args)


def by_attrop(args: Namespace) -> None:
    """AttrOP moves every noisy vector until its image has the pose."""
    refuse_landmark_flags(args)
    fill_in(args, SIGMAS, MaskRates())
    args.model_weights = args.model_weights or GENERATOR
    args.pose = DEFAULT_POSE if args.pose is None else args.pose
    gating = gating_of(args)
    machine = machine_of(args)
    use_attrop = not args.skip_attrop
    networks = networks_of(
        args, machine, gating, id=use_attrop or args.image_file is not None, quality=use_attrop,
        pose=use_attrop or bool(args.measure),
    )  # fmt: skip
    if args.image_quality is None:
        args.image_quality = default_quality(networks.quality, args.pose)
    source, settings = identities_of(args, networks)

    # AttrOP on every noisy vector: 100 (1 - cos(FR(image), vector)) + max(0, quality - ||Q(image)||) + ||yaw| - pose|
    # is minimised, where `vector` is the identity vector without noise.
    attrop, attrop_settings, warnings = None, None, []
    if use_attrop:
        targets = [quality_target(networks.quality, args.image_quality)]
        targets.append(yaw_target(networks.pose, args.pose, args.signed_pose))
        if args.pitch is not None:
            targets.append(pitch_target(networks.pose, args.pitch))
        targets += attribute_targets(args.attribute, networks.attributes)
        attrop = AttrOP(networks.generator, networks.encoder, targets, **attrop_options_of(args, machine))
        names = ("image_quality", "max_iters", "pose", "signed_pose", "pitch")
        attrop_settings = {name: getattr(args, name) for name in names} | attribute_settings(args.attribute)
    else:
        warnings.append("--skip_attrop: without AttrOP nothing asks for the pose; the images have any.")

    make_dataset(
        source, networks, recipe_of(args), output_of(args, machine, f"{args.name}-{args.pose:g}"), machine,
        attrop=attrop, attrop_on="image", gating=gating,
        extra_settings=extra_settings_of(args, "pose", attrop=attrop_settings, **settings),
        warnings=[
            *warnings, *people_warnings(source), *networks.warnings(max(args.min_quality or 0, args.image_quality))
        ],
    )  # fmt: skip


def by_landmarks(args: Namespace) -> None:
    """Landmark pictures give the pose; before, AttrOP may give the identity vectors a quality and attributes."""
    choice = landmark_choice_of(args)
    gating = gating_of(args)
    args.model_weights = args.model_weights or POSE_MODEL
    machine = machine_of(args)
    wants_quality = args.image_quality is not None
    use_attrop = wants_quality or bool(args.attribute)
    networks = networks_of(
        args, machine, gating, id=use_attrop or args.image_file is not None, quality=wants_quality,
        pose=bool(args.measure),
    )  # fmt: skip
    check_control(args, uncompiled(networks.generator))
    fill_in(args, LANDMARK_SIGMAS, landmark_rates(uncompiled(networks.generator)))
    source, settings = identities_of(args, networks)

    # AttrOP on the identity vector, if asked for: its image has a frontal face.
    attrop = attrop_settings = None
    if use_attrop:
        targets = [quality_target(networks.quality, args.image_quality)] if wants_quality else []
        targets += attribute_targets(args.attribute, networks.attributes)
        attrop = AttrOP(frontal_only(networks.generator), networks.encoder, targets, **attrop_options_of(args, machine))
        attrop_settings = {"image_quality": args.image_quality, "max_iters": args.max_iters}
        attrop_settings |= attribute_settings(args.attribute)

    # Noise on the vector: v' = v + n, n ~ N(0, sigma^2), rescaled to the norm of v; every v' is decoded once, with the
    # landmark picture of its image.
    name = f"{args.name}-{choice.settings['pose']:g}" if isinstance(choice, OnePose) else args.name
    make_dataset(
        source, networks, recipe_of(args, choice), output_of(args, machine, name), machine, attrop=attrop,
        attrop_on="identity", gating=gating,
        extra_settings=extra_settings_of(
            args, "pose", attrop=attrop_settings, control="landmarks", **choice.settings, **settings
        ),
        warnings=[
            *people_warnings(source), *networks.warnings(max(args.min_quality or 0, args.image_quality or 0))
        ],
    )  # fmt: skip


def machine_of(args: Namespace) -> Machine:
    """The processes and the device of this run."""
    world = init_distributed()
    return Machine(world, *set_up_inference(args, world.local_rank, deterministic=True), args.batch_size)


def identities_of(args: Namespace, networks: Networks) -> tuple[Source, dict[str, bool]]:
    """(source of the identities, what settings.json says of it): a row of a file each, or a photo or a folder."""
    if args.center_feature is not None:
        return VectorSource(
            args.center_feature, args.start_end, args.start_class_id, usual_norm=networks.usual_norm,
            reserve=args.reserve,
        ), {}  # fmt: skip
    kind = PersonSource if args.per_person else PhotoSource
    source = kind(args.image_file, networks.encoder, args.start_end, args.feat_batch_size, args.align)
    person = {"each_folder_is_an_identity": True} if args.per_person else {}
    return source, {"align": args.align} | person


if __name__ == "__main__":
    main()
