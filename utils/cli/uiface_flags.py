"""The flags of UIFace's networks, and the networks that they stand for."""

from argparse import _ArgumentGroup as Group
from collections.abc import Sequence

import torch

from models.errors import UserError
from models.uiface import Architecture, Autoencoder, load_uiface_vq


def add_autoencoder_flag(group: Group) -> None:
    """--autoencoder, one file or two."""
    group.add_argument(
        "--autoencoder", nargs="+", required=True, metavar="FILE",
        help="weights of the VQ autoencoder, of scripts/train_autoencoder.py; or the two released files, encoder first",
    )  # fmt: skip


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
