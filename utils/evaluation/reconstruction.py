"""Scores of how well a generator reconstructs photos from their own FR features."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from models.losses import StructuralSimilarity
from models.masking import MaskRates
from models.pixels import to_images, to_pixels
from models.vec2face import Vec2Face
from utils.data.loader import make_loader
from utils.data.training_data import TrainingData
from utils.evaluation.residual_map import ResidualMap
from utils.generation.streams import IDENTITY_SIGMAS, image_stream, perturb

SHEET_COLUMNS = 12
NOISE = IDENTITY_SIGMAS
HIGH_FREQUENCY = 1 / 8  # cycles per pixel


@torch.inference_mode()
def reconstruct(
    generator: Vec2Face,
    encoder: nn.Module,
    data: TrainingData,
    indices: Sequence[int],
    batch_size: int = 32,
    seed: int = 0,
    evaluator: nn.Module | None = None,
    threshold: float | None = None,
) -> tuple[dict[str, float], list[list[np.ndarray]], ResidualMap]:
    """({name: score}, [photos, reconstructions], residuals) of the records of a TrainingData at ``indices``.

    All models are in eval mode; masks are drawn as in generation, from (seed, record). The scores are PSNR in dB, SSIM,
    the similarity of the image's FR feature to the photo's, sharpness: the fraction of high frequencies in the images
    over that in the photos, and the largest mean residual at a fixed place. ``evaluator``: a held-out FR model, whose
    similarities are scored as well; with its verification ``threshold`` also the fraction of images from vectors with
    the published noise that it verifies as the photo's identity. The pictures are lists of (112, 112, 3) uint8.
    """
    device, masks = next(generator.parameters()).device, MaskRates()
    ssim = StructuralSimilarity().to(device)
    items = [(0, int(index)) for index in indices]
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    psnr, structure, similarity, sharpness, held_out, verified, pairs = [], [], [], [], [], [], [[], []]
    residuals = ResidualMap()
    for pixels, vectors, keys, _ in tqdm(make_loader(data, batches, 0, False), unit="batch", leave=False):
        mask = masks.draw_masks([image_stream(seed, int(key), 0) for key in keys]).to(device)
        real, vectors = to_images(pixels.to(device)), vectors.to(device)  # (B, 3, 112, 112), (B, 512)
        fake = generator(vectors, mask).images.float().clip(-1, 1)  # (B, 3, 112, 112)
        residuals.add(fake, real)
        psnr += (10 * torch.log10(4 / (fake - real).square().mean((1, 2, 3)))).tolist()
        structure += ssim(fake, real, mean=False).tolist()
        similarity += torch.cosine_similarity(encoder(fake).float(), vectors).tolist()
        sharpness.append(torch.stack([high_frequency_fraction(fake), high_frequency_fraction(real)]))  # (2, B)
        if evaluator is not None:
            of_photos = evaluator(real).float()  # (B, D)
            held_out += torch.cosine_similarity(evaluator(fake).float(), of_photos).tolist()
            if threshold is not None:
                noisy = torch.tensor(np.stack([
                    perturb(vector, NOISE[int(key) % len(NOISE)], image_stream(seed, int(key), 1))
                    for key, vector in zip(keys, vectors.cpu().numpy(), strict=True)
                ])).to(device)  # (B, 512)  # fmt: skip
                images = generator(noisy, mask).images.float().clip(-1, 1)  # (B, 3, 112, 112)
                verified += (torch.cosine_similarity(evaluator(images).float(), of_photos) >= threshold).tolist()
        for row, images in zip(pairs, (real, fake), strict=True):
            row.extend(to_pixels(images[: SHEET_COLUMNS - len(row)]).cpu().numpy())
    sharpness_of_images, sharpness_of_photos = torch.cat(sharpness, 1).mean(1).tolist()
    scores = {
        "photos": len(psnr),
        "psnr": round(float(np.mean(psnr)), 3),
        "ssim": round(float(np.mean(structure)), 4),
        "id_similarity_mean": round(float(np.mean(similarity)), 4),
        "id_similarity_5th_percentile": round(float(np.percentile(similarity, 5)), 4),
        "sharpness": round(sharpness_of_images / sharpness_of_photos, 4),
        "residual_peak": round(residuals.peak(), 2),
    }
    if held_out:
        scores["judge_similarity_mean"] = round(float(np.mean(held_out)), 4)
        scores["judge_similarity_5th_percentile"] = round(float(np.percentile(held_out, 5)), 4)
    if verified:
        scores["recognised_with_noise"] = round(float(np.mean(verified)), 4)
    return scores, pairs, residuals


def high_frequency_fraction(images: torch.Tensor) -> torch.Tensor:
    """Fraction (N,) of the luminance's spectral energy, without its mean, from 1/8 cycle per pixel on.

    ``images``: (N, 3, H, W).
    """
    grey = images.float().mean(1)  # (N, H, W)
    energy = torch.fft.rfft2(grey - grey.mean((1, 2), keepdim=True)).abs().square()  # (N, H, W // 2 + 1)
    rows = torch.fft.fftfreq(grey.shape[1], device=grey.device)[:, None]
    columns = torch.fft.rfftfreq(grey.shape[2], device=grey.device)[None]
    high = torch.hypot(*torch.broadcast_tensors(rows, columns)) >= HIGH_FREQUENCY  # (H, W // 2 + 1)
    return (energy * high).sum((1, 2)) / energy.sum((1, 2)).clamp(min=1e-12)
