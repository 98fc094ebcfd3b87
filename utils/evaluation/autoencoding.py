"""Scores of a VQ autoencoder on photos that it was not trained on."""

from collections.abc import Sequence

import numpy as np
import torch

from models.pixels import to_images, to_pixels
from models.uiface import Autoencoder
from utils.data.loader import make_loader
from utils.data.training_data import TrainingData

SHEET_COLUMNS = 12


@torch.inference_mode()
def score_autoencoder(
    autoencoder: Autoencoder, data: TrainingData, indices: Sequence[int], batch_size: int, side: int
) -> tuple[dict[str, float], list[list[np.ndarray]]]:
    """({name: score}, [photos, reconstructions]) of the records of a TrainingData at ``indices``.

    ``side``: of the latents. The scores are the PSNR in dB at 112 pixels, the fraction of the codes that some photo
    uses, and mean and standard deviation of the latents. The pictures are lists of (112, 112, 3) uint8.
    """
    codebook = autoencoder.model.quantize.embedding.weight  # (codes, 3)
    used = torch.zeros(len(codebook), dtype=torch.bool, device=codebook.device)  # (codes,)
    batches = [
        [(0, int(index)) for index in indices[first : first + batch_size]]
        for first in range(0, len(indices), batch_size)
    ]
    psnr, moments, pairs = [], [], [[], []]
    for pixels, *_ in make_loader(data, batches, 0, False):
        real = to_images(pixels.to(codebook.device))  # (B, 3, 112, 112)
        latents = autoencoder.encode_faces(real, side)  # (B, 3, side, side)
        used[autoencoder.model.quantize(latents)[2][2]] = True
        fake = autoencoder.decode_faces(latents).clip(-1, 1)  # (B, 3, 112, 112)
        psnr += (10 * torch.log10(4 / (fake - real).square().mean((1, 2, 3)))).tolist()
        moments += [[float(latents.mean()), float(latents.square().mean())]] * len(real)
        for row, images in zip(pairs, (real, fake), strict=True):
            row.extend(to_pixels(images[: SHEET_COLUMNS - len(row)]).cpu().numpy())
    mean, square = np.mean(moments, axis=0)
    return {
        "photos": len(psnr),
        "psnr": round(float(np.mean(psnr)), 3),
        "codes_used": round(float(used.float().mean()), 4),
        "latent_mean": round(float(mean), 4),
        "latent_std": round(float(np.sqrt(square - mean**2)), 4),
    }, pairs
