"""Make a face dataset at a wanted head pose and quality.

    python pose_image_generation.py --model_weights weights/vec2face_generator.pth --batch_size 5 --example 1 \\
        --start_end 0:10 --center_feature center_feature_examples.npy --name test --pose 45 --image_quality 25

Noise on the identity vector gives the vectors of its images; AttrOP moves each until the image has the wanted yaw,
pitch and quality and still shows the identity (paper section 3.3).

Several GPUs: put `torchrun --nproc_per_node=N` in the place of `python`. Stopped, or more to do: run the same command
again.
"""

from argparse import ArgumentParser

from utils.cli.command import command  # first, as it makes settings that must precede torch

from models.attrop import AttrOP, pitch_target, quality_target, yaw_target
from models.errors import UserError
from utils.cli.flags import make_parser
from utils.cli.gate_flags import gating_of
from utils.cli.generation_flags import (
    add_attrop_flags,
    add_pose_flags,
    add_recipe_flags,
    add_run_flags,
    add_vector_flags,
    attrop_options_of,
    extra_settings_of,
    networks_of,
    output_of,
    recipe_of,
)
from utils.cli.model_flags import set_up_inference
from utils.generation.make_dataset import Machine, make_dataset
from utils.generation.networks import default_quality
from utils.generation.vector_source import VectorSource
from utils.runtime.distributed import init_distributed

SIGMAS = (0.7,)  # as released


def pose_parser() -> ArgumentParser:
    parser = make_parser(__doc__)
    add_vector_flags(parser)
    add_recipe_flags(parser, SIGMAS)
    group = add_attrop_flags(
        parser, "from their median for a yaw of 0 down to their 5 %% quantile at 90 degrees, in proportion"
    )
    add_pose_flags(group)
    add_run_flags(parser, output_dir="generated_pose_images")
    return parser


@command
def main(argv=None):
    args = pose_parser().parse_args(argv)
    lowest = -90 if args.signed_pose else 0
    if not lowest <= args.pose <= 90:
        raise UserError(
            f"--pose {args.pose:g}: a yaw lies between {lowest} and 90 degrees (below 0 with --signed_pose)."
        )
    gating = gating_of(args)
    world = init_distributed()
    machine = Machine(world, *set_up_inference(args, world.local_rank, deterministic=True), args.batch_size)
    use_attrop = not args.skip_attrop
    networks = networks_of(
        args, machine, gating, id=use_attrop, quality=use_attrop, pose=use_attrop or bool(args.measure)
    )
    if args.image_quality is None:
        args.image_quality = default_quality(networks.quality, args.pose)

    # One identity a row of the file.
    source = VectorSource(
        args.center_feature, args.start_end, args.start_class_id, usual_norm=networks.usual_norm, reserve=args.reserve
    )

    # AttrOP on every noisy vector: 100 (1 - cos(FR(image), vector)) + max(0, quality - ||Q(image)||) + ||yaw| - pose|
    # is minimised, where `vector` is the identity vector without noise.
    attrop, attrop_settings, warnings = None, None, []
    if use_attrop:
        targets = [quality_target(networks.quality, args.image_quality)]
        targets.append(yaw_target(networks.pose, args.pose, args.signed_pose))
        if args.pitch is not None:
            targets.append(pitch_target(networks.pose, args.pitch))
        attrop = AttrOP(networks.generator, networks.encoder, targets, **attrop_options_of(args, machine))
        names = ("image_quality", "max_iters", "pose", "signed_pose", "pitch")
        attrop_settings = {name: getattr(args, name) for name in names}
    else:
        warnings.append("--skip_attrop: without AttrOP nothing asks for the pose; the images have any.")

    make_dataset(
        source, networks, recipe_of(args), output_of(args, machine, f"{args.name}-{args.pose:g}"), machine,
        attrop=attrop, attrop_on="image", gating=gating,
        extra_settings=extra_settings_of(args, "pose", attrop=attrop_settings),
        warnings=[*warnings, *networks.warnings(max(args.min_quality or 0, args.image_quality))],
    )  # fmt: skip


if __name__ == "__main__":
    main()
