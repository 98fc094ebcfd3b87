"""UIFace (Lin et al., ICLR 2025): latent diffusion of faces from identity vectors, sampled in two stages."""

from models.uiface.architecture import PRESETS, Architecture
from models.uiface.autoencoder import AUTOENCODER_PRESETS, Autoencoder, AutoencoderSizes
from models.uiface.generator import Drawn, UIFaceGenerator
from models.uiface.sampling import Sampling, Step, attention_map, two_stage_ddim
from models.uiface.unet import UNet
from models.uiface.vq_file import load_uiface_vq, save_uiface_vq
from models.uiface.weights import load_uiface_unet, save_uiface_unet

__all__ = [
    "AUTOENCODER_PRESETS",
    "PRESETS",
    "Architecture",
    "Autoencoder",
    "AutoencoderSizes",
    "Drawn",
    "Sampling",
    "Step",
    "UIFaceGenerator",
    "UNet",
    "attention_map",
    "load_uiface_unet",
    "load_uiface_vq",
    "save_uiface_unet",
    "save_uiface_vq",
    "two_stage_ddim",
]
