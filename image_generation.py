"""Make a face dataset from identity vectors.

    python image_generation.py --model_weights weights/vec2face_generator.pth --batch_size 5 --example 1 \\
        --start_end 0:10 --name test --center_feature center_feature_examples.npy

AttrOP moves every identity vector until its image has the wanted quality; noise on the vector then gives the images of
the identity (paper section 3.3).

Several GPUs: put `torchrun --nproc_per_node=N` in the place of `python`. Stopped, or more to do: run the same command
again.
"""

from argparse import ArgumentParser
from dataclasses import replace

from utils.cli.command import command  # first, as it makes settings that must precede torch

from models.attrop import AttrOP, quality_target
from utils.cli.attribute_flags import attribute_settings, attribute_targets
from utils.cli.flags import make_parser
from utils.cli.gate_flags import gating_of
from utils.cli.generation_flags import (
    add_attrop_flags,
    add_run_flags,
    add_vector_flags,
    attrop_options_of,
    extra_settings_of,
    networks_of,
    output_of,
)
from utils.cli.mixup_flags import add_mixup_flag, mixup_of
from utils.cli.model_flags import set_up_inference
from utils.cli.recipe_flags import add_recipe_flags, recipe_of
from utils.generation.make_dataset import Machine, make_dataset
from utils.generation.networks import default_quality
from utils.generation.streams import IDENTITY_SIGMAS
from utils.generation.vector_source import VectorSource
from utils.runtime.distributed import init_distributed


def identity_parser() -> ArgumentParser:
    parser = make_parser(__doc__)
    add_vector_flags(parser)
    add_recipe_flags(parser, IDENTITY_SIGMAS)
    add_mixup_flag(parser)
    add_attrop_flags(parser, "the norm that a quarter of these photos exceed")
    add_run_flags(parser, output_dir="generated_images")
    return parser


@command
def main(argv=None):
    args = identity_parser().parse_args(argv)
    gating = gating_of(args)
    world = init_distributed()
    machine = Machine(world, *set_up_inference(args, world.local_rank, deterministic=True), args.batch_size)
    use_attrop = not args.skip_attrop
    networks = networks_of(args, machine, gating, id=use_attrop, quality=use_attrop, pose=False)
    if args.image_quality is None:
        args.image_quality = default_quality(networks.quality)

    # One identity a row of the file.
    source = VectorSource(
        args.center_feature, args.start_end, args.start_class_id, usual_norm=networks.usual_norm, reserve=args.reserve
    )

    # AttrOP on the identity vector: 100 (1 - cos(FR(image), vector)) + max(0, quality - ||Q(image)||) is minimised, and
    # with --attribute the distance to each wanted value.
    attrop = attrop_settings = None
    if use_attrop:
        targets = [quality_target(networks.quality, args.image_quality)]
        targets += attribute_targets(args.attribute, networks.attributes)
        attrop = AttrOP(networks.generator, networks.encoder, targets, **attrop_options_of(args, machine))
        attrop_settings = {"image_quality": args.image_quality, "max_iters": args.max_iters}
        attrop_settings |= attribute_settings(args.attribute)

    # Noise on the result, or with --identity_mixup on its mixture with another identity vector: v' = v + n, n ~ N(0,
    # sigma^2), rescaled to the norm of v; every v' is decoded once.
    recipe = replace(recipe_of(args), mixup=mixup_of(args, source))
    make_dataset(
        source, networks, recipe, output_of(args, machine), machine,
        attrop=attrop, attrop_on="identity", gating=gating,
        extra_settings=extra_settings_of(args, "identity", attrop=attrop_settings),
        warnings=networks.warnings(max(args.min_quality or 0, args.image_quality)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
