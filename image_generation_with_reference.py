"""Make images of the people in reference photos.

    python image_generation_with_reference.py --image_file "path/of/the/image/file or folder" \\
        --model_weights weights/vec2face_generator.pth --batch_size 5 --example 10 --name images-of-references

The FR feature of each photo is the identity vector; noise on it gives the images of the person (paper section 3.3).
With --image_quality or --attribute, AttrOP moves the vector before, until its image has that quality or attribute.
Photos must be aligned 112x112 crops, or give --align. Stopped, or more to do: run the same command again.
"""

from argparse import ArgumentParser

from utils.cli.command import command  # first, as it makes settings that must precede torch

from models.attrop import AttrOP, quality_target
from utils.cli.attribute_flags import attribute_settings, attribute_targets
from utils.cli.flags import make_parser
from utils.cli.gate_flags import gating_of
from utils.cli.generation_flags import (
    add_optional_attrop_flags,
    add_photo_flags,
    add_run_flags,
    attrop_options_of,
    extra_settings_of,
    networks_of,
    output_of,
)
from utils.cli.model_flags import set_up_inference
from utils.cli.recipe_flags import add_recipe_flags, recipe_of
from utils.generation.make_dataset import Machine, make_dataset
from utils.generation.person_source import PersonSource, people_warnings
from utils.generation.photo_source import PhotoSource
from utils.runtime.distributed import init_distributed

SIGMAS = (0.2,)  # as released


def reference_parser() -> ArgumentParser:
    parser = make_parser(__doc__)
    add_photo_flags(parser)
    add_recipe_flags(parser, SIGMAS)
    add_optional_attrop_flags(parser)
    add_run_flags(parser, output_dir="generated_images_ref", own_quality_model=True)
    return parser


@command
def main(argv=None):
    args = reference_parser().parse_args(argv)
    gating = gating_of(args)
    world = init_distributed()
    machine = Machine(world, *set_up_inference(args, world.local_rank, deterministic=True), args.batch_size)
    wants_quality = args.image_quality is not None
    networks = networks_of(args, machine, gating, id=True, quality=wants_quality, pose=False)

    # The identity vector of a photo is its FR feature, that of a folder (--per_person) the mean of its photos'.
    kind = PersonSource if args.per_person else PhotoSource
    source = kind(args.image_file, networks.encoder, args.start_end, args.feat_batch_size, args.align)
    extra_settings = {"align": args.align}
    if args.per_person:  # named only then, as earlier datasets lack it
        extra_settings["each_folder_is_an_identity"] = True

    # With --image_quality or --attribute, AttrOP on the vector: its image gets these and still shows the person.
    attrop = None
    if wants_quality or args.attribute:
        targets = [quality_target(networks.quality, args.image_quality)] if wants_quality else []
        targets += attribute_targets(args.attribute, networks.attributes)
        attrop = AttrOP(networks.generator, networks.encoder, targets, **attrop_options_of(args, machine))
        extra_settings["attrop"] = {"image_quality": args.image_quality, "max_iters": args.max_iters}
        extra_settings["attrop"] |= attribute_settings(args.attribute)

    # Noise on the vector: v' = v + n, n ~ N(0, sigma^2), rescaled to the norm of v; every v' is decoded once.
    make_dataset(
        source, networks, recipe_of(args), output_of(args, machine), machine,
        attrop=attrop, attrop_on="identity", gating=gating,
        extra_settings=extra_settings_of(args, "reference", **extra_settings),
        warnings=[*people_warnings(source), *networks.warnings(max(args.min_quality or 0, args.image_quality or 0))],
    )  # fmt: skip


if __name__ == "__main__":
    main()
