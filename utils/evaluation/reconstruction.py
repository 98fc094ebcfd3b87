"""How well a generator redraws photos from their own FR features."""

import numpy as np
import torch
from tqdm import tqdm

from models.losses import StructuralSimilarity
from models.masking import MaskRates, TokenMask
from models.pixels import to_images, to_pixels
from utils.data.loader import make_loader
from utils.generation.streams import IDENTITY_SIGMAS, image_stream, perturb

SHEET_COLUMNS = 12
NOISE = IDENTITY_SIGMAS
HIGH_FREQUENCY = 1 / 8  # cycles a pixel


@torch.inference_mode()
def reconstruct(generator, encoder, data, indices, batch_size=32, seed=0, judge=None, threshold=None):
    """({name: score}, [photos, reconstructions]) of the records of a TrainingData at ``indices``.

    All models in eval mode; masks as in generation, drawn from (seed, record). The scores: PSNR in dB, SSIM, the
    similarity of the image's FR feature to the photo's, and sharpness, the high-frequency share of the images over
    that of the photos. ``judge``: another face encoder, whose similarities are scored too; with its verification
    ``threshold`` also the share of images from vectors with the published noise that it takes for the photo's person.
    Pictures: lists of (112, 112, 3) uint8.
    """
    device, masks = next(generator.parameters()).device, MaskRates()
    ssim = StructuralSimilarity().to(device)
    items = [(0, int(index)) for index in indices]
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    psnr, structure, similarity, sharpness, judged, recognised, pairs = [], [], [], [], [], [], [[], []]
    for pixels, vectors, keys, _ in tqdm(make_loader(data, batches, 0, False), unit="batch", leave=False):
        noise, rates = zip(*(masks.draw(image_stream(seed, int(key), 0)) for key in keys), strict=True)
        mask = TokenMask.from_noise(torch.tensor(np.stack(noise)), masks.minimum, torch.tensor(rates)).to(device)
        real, vectors = to_images(pixels.to(device)), vectors.to(device)  # (B, 3, 112, 112), (B, 512)
        fake = generator(vectors, mask).images.float().clip(-1, 1)
        psnr += (10 * torch.log10(4 / (fake - real).square().mean((1, 2, 3)))).tolist()
        structure += ssim(fake, real, mean=False).tolist()
        similarity += torch.cosine_similarity(encoder(fake).float(), vectors).tolist()
        sharpness.append(torch.stack([high_frequency_share(fake), high_frequency_share(real)]))  # (2, B)
        if judge is not None:
            theirs = judge(real).float()
            judged += torch.cosine_similarity(judge(fake).float(), theirs).tolist()
            if threshold is not None:
                noisy = torch.tensor(np.stack([
                    perturb(vector, NOISE[int(key) % len(NOISE)], image_stream(seed, int(key), 1))
                    for key, vector in zip(keys, vectors.cpu().numpy(), strict=True)
                ])).to(device)  # (B, 512)  # fmt: skip
                images = generator(noisy, mask).images.float().clip(-1, 1)
                recognised += (torch.cosine_similarity(judge(images).float(), theirs) >= threshold).tolist()
        for row, images in zip(pairs, (real, fake), strict=True):
            row.extend(to_pixels(images[: SHEET_COLUMNS - len(row)]).cpu().numpy())
    ours, theirs = torch.cat(sharpness, 1).mean(1).tolist()
    scores = {
        "photos": len(psnr),
        "psnr": round(float(np.mean(psnr)), 3),
        "ssim": round(float(np.mean(structure)), 4),
        "id_similarity_mean": round(float(np.mean(similarity)), 4),
        "id_similarity_5th_percentile": round(float(np.percentile(similarity, 5)), 4),
        "sharpness": round(ours / theirs, 4),
    }
    if judged:
        scores["judge_similarity_mean"] = round(float(np.mean(judged)), 4)
        scores["judge_similarity_5th_percentile"] = round(float(np.percentile(judged, 5)), 4)
    if recognised:
        scores["recognised_with_noise"] = round(float(np.mean(recognised)), 4)
    return scores, pairs


def high_frequency_share(images):
    """(N, 3, H, W) -> (N,): share of the luminance's spectral energy, without its mean, from 1/8 cycle a pixel on."""
    grey = images.float().mean(1)  # (N, H, W)
    energy = torch.fft.rfft2(grey - grey.mean((1, 2), keepdim=True)).abs().square()  # (N, H, W // 2 + 1)
    rows = torch.fft.fftfreq(grey.shape[1], device=grey.device)[:, None]
    columns = torch.fft.rfftfreq(grey.shape[2], device=grey.device)[None]
    high = torch.hypot(*torch.broadcast_tensors(rows, columns)) >= HIGH_FREQUENCY  # (H, W // 2 + 1)
    return (energy * high).sum((1, 2)) / energy.sum((1, 2)).clamp(min=1e-12)
