"""Make a face dataset from identity vectors with UIFace (Lin et al., ICLR 2025).

    python uiface_image_generation.py --model_weights workspace/uiface/model.pth --autoencoder vq/model.pth \\
        --center_feature people.npy --example 50 --name uiface

Latent diffusion draws each image from noise of its own, first a face without an identity and then with that of the
vector. The vectors are FR features of the encoder that the UNet was trained on; only their direction matters.

Several GPUs: put `torchrun --nproc_per_node=N` in the place of `python`. Stopped, or more to do: run the same command
again.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

from utils.cli.command import command  # first, as it makes settings that must precede torch

import numpy as np

from models.uiface import UIFaceGenerator, load_uiface_unet
from models.weight_files import sha256
from utils.cli.flags import make_parser
from utils.cli.gate_flags import gating_of
from utils.cli.generation_flags import (
    add_run_flags,
    add_vector_flags,
    extra_settings_of,
    output_of,
    weight_files_of,
)
from utils.cli.model_flags import set_up_inference
from utils.cli.recipe_flags import add_recipe_flags, recipe_of
from utils.cli.uiface_flags import (
    add_sampling_flags,
    add_uiface_model_flags,
    autoencoder_of,
    sampling_of,
    sampling_settings,
)
from utils.generation.make_dataset import Machine, make_dataset
from utils.generation.networks import load_networks
from utils.generation.vector_source import VectorSource
from utils.runtime.distributed import init_distributed

SIGMAS = (0.0,)  # no noise on the vectors: the noise of the diffusion makes the images differ
UNIT_TOLERANCE = 1e-3  # of the length of a vector that counts as 1


def uiface_parser() -> ArgumentParser:
    parser = make_parser(__doc__)
    add_vector_flags(parser)
    add_recipe_flags(parser, SIGMAS, masks=False)
    add_sampling_flags(parser)
    add_run_flags(
        parser, output_dir="generated_images_uiface", own_quality_model=True, add_models=add_uiface_model_flags
    )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = uiface_parser().parse_args(argv)
    sampling, gating = sampling_of(args), gating_of(args)
    world = init_distributed()
    machine = Machine(world, *set_up_inference(args, world.local_rank, deterministic=True), args.batch_size)
    device, dtype = machine.device, machine.precision.dtype

    # Both networks of the generator, and those of gates and measures.
    net = load_uiface_unet(args.model_weights, device, dtype, args.model)
    generator = UIFaceGenerator(net, autoencoder_of(args.autoencoder, net.architecture, device, dtype), sampling)
    files = weight_files_of(args, gating, id=False, quality=False, pose=False)
    networks = load_networks(files, device, dtype, args.compile, generator)

    # One identity a row of the file, of which the direction matters alone.
    source = VectorSource(
        args.center_feature, args.start_end, args.start_class_id, net.architecture.vector_size, reserve=args.reserve,
        any_norm=True,
    )  # fmt: skip
    source.note = length_note(source)
    warnings = networks.warnings(args.min_quality or 0)
    if net.autoencoder_sha256 and net.autoencoder_sha256 != sha256(args.autoencoder[-1]):
        warnings.append(f"{args.model_weights} was trained on latents of another autoencoder than --autoencoder.")
    if sampling.note:
        warnings.append(sampling.note)

    # Noise of each image's own stream -> latent -> image.
    make_dataset(
        source, networks, recipe_of(args), output_of(args, machine), machine, gating=gating,
        extra_settings=extra_settings_of(args, "uiface", **sampling_settings(args, sampling)), warnings=warnings,
    )  # fmt: skip


def length_note(source: VectorSource) -> str | None:
    """A line for the user where vectors, of the first thousand, do not have length 1."""
    lengths = np.linalg.norm(source.vectors[source.slice.start :][:1000], axis=1)  # (V,)
    if np.all(np.abs(lengths - 1) < UNIT_TOLERANCE):
        return None
    return (
        f"note: the vectors of {source.origin} have lengths {lengths.min():.3g} to {lengths.max():.3g}; they are "
        "normalised to length 1, which UIFace takes."
    )


if __name__ == "__main__":
    main()
