"""The flags of UIFace's networks and of its sampler, and what they stand for."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from argparse import _ArgumentGroup as Group
from collections.abc import Sequence
from typing import Any

import torch

from models.errors import UserError
from models.uiface import PRESETS, Architecture, Autoencoder, Sampling, load_uiface_vq
from models.uiface.schedule import TIMESTEPS
from models.weight_files import sha256
from utils.cli.flags import finite, positive

ADAPTIVE = "adaptive"  # the value of --partition
USUAL = Sampling()


def add_uiface_model_flags(parser: ArgumentParser) -> None:
    """The networks of a generation with UIFace."""
    group = parser.add_argument_group("models")
    add_unet_flags(group)
    add_autoencoder_flag(group)
    group.add_argument(
        "--id_weights", default="weights/arcface-r100-glint360k.pth",
        help="weights of the face encoder, for gates and measures",
    )  # fmt: skip


def add_unet_flags(group: Group) -> None:
    """The UNet."""
    group.add_argument(
        "--model", choices=list(PRESETS), help="preset of the UNet, to check the weights against (default: any)"
    )
    group.add_argument(
        "--model_weights", required=True, help="weights of the UNet, model.pth of uiface.py or the released file"
    )


def add_autoencoder_flag(group: Group) -> None:
    """--autoencoder, one file or two."""
    group.add_argument(
        "--autoencoder", nargs="+", required=True, metavar="FILE",
        help="weights of the VQ autoencoder, of scripts/train_autoencoder.py; or the two released files, encoder first",
    )  # fmt: skip


def add_sampling_flags(parser: ArgumentParser) -> None:
    """How samples are drawn."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--partition", type=partition, default=ADAPTIVE, metavar="adaptive|T0",
        help="timestep, 1 to 1000, from which a face gets its identity; adaptive: as soon as its attention map has "
        f"settled, and from {USUAL.stage_step} at the latest",
    )  # fmt: skip
    group.add_argument(
        "--threshold", type=finite,
        help=f"largest movement of a settled attention map, with --partition adaptive (default: {USUAL.threshold})",
    )  # fmt: skip
    group.add_argument("--steps", type=positive, default=USUAL.steps, help="number of sampling steps")
    group.add_argument(
        "--guidance", type=finite, default=USUAL.guidance,
        help="scale w of classifier-free guidance in the second stage; 0: no guidance",
    )  # fmt: skip
    group.add_argument(
        "--injection", action=BooleanOptionalAction, default=True,
        help="injection of the attention of the pass without an identity",
    )  # fmt: skip


def partition(text: str) -> str | int:
    """argparse type: "adaptive", or a timestep."""
    if text == ADAPTIVE:
        return text
    if not text.isdecimal() or not 1 <= int(text) <= TIMESTEPS:
        raise ArgumentTypeError(f"must be adaptive or a timestep from 1 to {TIMESTEPS}, not {text}")
    return int(text)


def sampling_of(args: Namespace) -> Sampling:
    """The Sampling that the flags ask for. Raises UserError for flags that do not fit together."""
    if args.partition == ADAPTIVE:
        threshold = USUAL.threshold if args.threshold is None else args.threshold
        return Sampling(args.steps, threshold, USUAL.stage_step, args.guidance, args.injection)
    if args.threshold is not None:
        raise UserError("--threshold: belongs to --partition adaptive; a fixed timestep needs none.")
    return Sampling(args.steps, 0.0, args.partition, args.guidance, args.injection)


def sampling_settings(args: Namespace, sampling: Sampling) -> dict[str, Any]:
    """What settings.json says of the sampler and of the autoencoder."""
    settings = {"partition": args.partition, "steps": sampling.steps, "guidance": sampling.guidance}
    settings |= {"threshold": sampling.threshold} if args.partition == ADAPTIVE else {}
    return settings | {"injection": sampling.injection, "autoencoder": [sha256(file) for file in args.autoencoder]}


def autoencoder_of(
    files: Sequence[str], architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> Autoencoder:
    """The frozen autoencoder of --autoencoder, for a UNet of this architecture. Raises UserError if they do not fit."""
    if len(files) > 2:
        raise UserError(f"--autoencoder: {len(files)} files; give one, or the released encoder and decoder.")
    autoencoder = load_uiface_vq(files[0], files[1] if len(files) > 1 else None, device, dtype)
    channels = autoencoder.sizes.latent_channels
    if channels != architecture.latent_channels:
        raise UserError(
            f"{files[-1]}: its latents have {channels} channels, and the UNet takes {architecture.latent_channels}."
        )
    return autoencoder
