"""UIFace (Lin et al., ICLR 2025): latent diffusion of faces from identity vectors, sampled in two stages."""

from models.uiface.architecture import PRESETS, Architecture

from models.uiface.unet import UNet

from models.uiface.weights import load_uiface_unet, save_uiface_unet

__all__ = [
    "PRESETS",
    "Architecture",
    "Step",
    "UNet",
    "attention_map",
    "load_uiface_unet",
    "load_uiface_vq",
    "save_uiface_unet",
    "two_stage_ddim",
]
