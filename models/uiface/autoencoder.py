"""The VQ-f4 autoencoder between images and UIFace's latents (Rombach et al., 2022), computed by diffusers' VQModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from models.errors import UserError
from models.weight_files import freeze_for_inference

FACE_SIDE = 112  # pixels of the faces in all data sets, whatever the autoencoder's images have


@dataclass(frozen=True)
class AutoencoderSizes:
    """The sizes of an autoencoder, by default the published ones. All but ``groups`` follow from the weights' shapes.

    ``widths``: channels of the levels, between which the side is halved. ``blocks``: residual blocks of a level of the
    encoder; the decoder has one more. ``codes``: vectors in the codebook. ``latent_channels``: values of one of them.
    ``groups``: of every GroupNorm.
    """

    widths: tuple[int, ...] = (128, 256, 512)
    blocks: int = 2
    codes: int = 8192
    latent_channels: int = 3
    groups: int = field(default=32, compare=False)

    @property
    def shrinkage(self) -> int:
        """The factor between the sides of images and latents, a divisor of the side of the images."""
        return 2 ** (len(self.widths) - 1)


AUTOENCODER_PRESETS = {
    "uiface": AutoencoderSizes(),  # images of 128 pixels -> latents of 3x32x32
    "uiface_tiny": AutoencoderSizes((32, 64, 128), codes=1024, groups=8),  # images of 112 pixels -> latents of 3x28x28
}


class Reconstruction(NamedTuple):
    """``images`` (N, 3, H, W), and ``codebook_loss`` (scalar), which draws latents and codes to each other."""

    images: torch.Tensor
    codebook_loss: torch.Tensor


class Autoencoder(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] <-> latents (N, 3, H / 4, W / 4), of about unit variance.

    ``model`` is diffusers' VQModel. Raises UserError if diffusers is not installed.
    """

    def __init__(self, sizes: AutoencoderSizes):
        super().__init__()
        self.sizes = sizes
        self.model = vq_model(sizes)

    def forward(self, images: torch.Tensor) -> Reconstruction:
        """For training: images (N, 3, H, W) -> their Reconstruction from quantised latents.

        The gradient passes the quantisation as if it were not there.
        """
        latents = self.encode(images)  # (N, 3, H / 4, W / 4)
        with torch.autocast(latents.device.type, enabled=False):
            codes, loss, _ = self.model.quantize(latents)  # (N, 3, H / 4, W / 4), scalar
        return Reconstruction(self.model.decode(codes, force_not_quantize=True).sample.float(), loss)

    @torch.no_grad()
    def begin_codebook(self, images: torch.Tensor) -> None:
        """Set the codebook to latents of these images (N, 3, H, W), drawn at random from torch's seed.

        The codes that diffusers begins with lie so close together that most would never be used.
        """
        codebook = self.model.quantize.embedding.weight  # (codes, latent_channels)
        latents = self.encode(images).movedim(1, -1).flatten(0, 2)  # (N, C, h, w) -> (N h w, C)
        drawn = torch.randint(len(latents), (len(codebook),))  # on the CPU, the same for all devices
        codebook.copy_(latents[drawn.to(latents.device)])

    @torch.no_grad()
    def standardise(self, images: torch.Tensor) -> None:
        """Give the latents of these images (N, 3, H, W) mean 0 in each channel and variance 1 over all of them.

        Encoder, codebook and decoder change together, so that codes and reconstructions stay the same: UIFace has no
        scale factor between the autoencoder and the UNet.
        """
        latents = self.encode(images)  # (N, C, h, w)
        mean = latents.mean((0, 2, 3))  # (C,)
        scale = (latents - mean[:, None, None]).square().mean().sqrt()
        into, out_of, codebook = self.model.quant_conv, self.model.post_quant_conv, self.model.quantize.embedding.weight
        into.bias.copy_((into.bias - mean) / scale)
        into.weight.div_(scale)
        codebook.copy_((codebook - mean) / scale)  # (codes, C)
        out_of.bias.add_(out_of.weight[:, :, 0, 0] @ mean)
        out_of.weight.mul_(scale)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [-1, 1] -> latents (N, 3, H / 4, W / 4), not quantised: the UNet is trained on these.

        Raises UserError unless the sides are multiples of 4.
        """
        factor = self.sizes.shrinkage
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % factor or images.shape[3] % factor:
            raise UserError(
                f"images of shape {tuple(images.shape)}: the autoencoder takes (N, 3, H, W) with sides that are "
                f"multiples of {factor}."
            )
        return self.model.encode(images.to(self.dtype)).latents.float()  # (N, 3, H / 4, W / 4)

    def quantise(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (N, 3, h, w) -> the nearest vectors of the codebook (N, 3, h, w)."""
        self.check_latents(latents)
        return self.model.quantize(latents.float())[0]  # (N, 3, h, w)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (N, 3, h, w), quantised here -> images (N, 3, 4 h, 4 w), roughly in [-1, 1] and not clipped."""
        codes = self.quantise(latents).to(self.dtype)  # (N, 3, h, w)
        return self.model.decode(codes, force_not_quantize=True).sample.float()  # (N, 3, 4 h, 4 w)

    def encode_faces(self, faces: torch.Tensor, side: int) -> torch.Tensor:
        """Faces (N, 3, 112, 112) in [-1, 1], resized bilinearly -> latents (N, 3, side, side)."""
        return self.encode(resized(faces, side * self.sizes.shrinkage))  # (N, 3, side, side)

    def decode_faces(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (N, 3, h, w) -> faces (N, 3, 112, 112), resized bilinearly and not clipped."""
        return resized(self.decode(latents), FACE_SIDE)  # (N, 3, 112, 112)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the convolutions."""
        return self.model.encoder.conv_in.weight.dtype

    def check_latents(self, latents: torch.Tensor) -> None:
        """Raise UserError unless latents have the shape (N, 3, h, w)."""
        channels = self.sizes.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise UserError(f"latents of shape {tuple(latents.shape)}: the autoencoder takes (N, {channels}, h, w).")

    def for_inference(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Autoencoder:
        """Freeze and move the autoencoder; gradients still reach images and latents. Returns it.

        The codebook stays in float32.
        """
        return freeze_for_inference(self, device, dtype, in_float32=self.model.quantize.embedding)


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images (N, C, H, W) -> (N, C, side, side), bilinearly."""
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear")  # (N, C, side, side)


def vq_model(sizes: AutoencoderSizes) -> nn.Module:
    """diffusers' VQModel with these sizes and random weights. Raises UserError if diffusers is not installed."""
    try:
        from diffusers import VQModel  # slow to import, and only the autoencoder needs it
    except ImportError as error:
        raise UserError("UIFace's autoencoder needs one more package: pip install -e .[uiface]") from error
    levels = len(sizes.widths)
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.widths,
        layers_per_block=sizes.blocks,
        latent_channels=sizes.latent_channels,
        num_vq_embeddings=sizes.codes,
        norm_num_groups=sizes.groups,
        vq_embed_dim=sizes.latent_channels,
    )


def sizes_of(state: Mapping[str, torch.Tensor]) -> AutoencoderSizes:
    """The sizes with the shapes of a state dict in diffusers' names, with the groups of the preset of these sizes.

    Raises KeyError, with the key, if a weight is missing that decides them, and ValueError if no autoencoder has these
    shapes.
    """
    prefix = "encoder.down_blocks."
    levels = 1 + max((int(key.split(".")[2]) for key in state if key.startswith(prefix)), default=0)
    first = f"{prefix}0.resnets."
    codes, latent_channels = state["quantize.embedding.weight"].shape
    found = AutoencoderSizes(
        widths=tuple(state[f"{prefix}{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)),
        blocks=len({key.split(".")[4] for key in state if key.startswith(first)}),
        codes=codes,
        latent_channels=latent_channels,
    )
    found = next((preset for preset in AUTOENCODER_PRESETS.values() if preset == found), found)
    if any(width % found.groups for width in found.widths):
        raise ValueError(f"levels of {', '.join(map(str, found.widths))} channels")
    return found
