"""How well a generator redraws photos from their own FR features."""

import numpy as np
import torch
from tqdm import tqdm

from models.losses import similarity_of_structure
from models.vec2face import TokenMask
from utils.generation import to_pixels
from utils.sampling import MaskRatios, image_stream
from utils.training_data import make_loader

SHEET_COLUMNS = 12


@torch.inference_mode()
def reconstruct(generator, encoder, data, indices, batch_size=32, seed=0):
    """({name: score}, [photos, reconstructions]) of the records of a TrainingData at ``indices``.

    ``generator`` and ``encoder`` in eval mode; masks as in generation, drawn from (seed, record). The scores: PSNR in
    dB, SSIM, and the similarity of the image's FR feature to the photo's. Pictures: lists of (112, 112, 3) uint8.
    """
    device, masks = next(generator.parameters()).device, MaskRatios()
    items = [(0, int(index)) for index in indices]
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    psnr, structure, similarity, pairs = [], [], [], [[], []]
    for real, vectors, keys, _ in tqdm(make_loader(data, batches, 0, False), unit="batch", leave=False):
        noise, rates = zip(*(masks.draw(image_stream(seed, int(key), 0)) for key in keys), strict=True)
        mask = TokenMask.from_noise(torch.tensor(np.stack(noise)), masks.minimum, torch.tensor(rates)).to(device)
        real, vectors = real.to(device), vectors.to(device)  # (B, 3, 112, 112), (B, 512)
        fake = generator(vectors, mask).images.float().clip(-1, 1)
        psnr += (10 * torch.log10(4 / (fake - real).square().mean((1, 2, 3)))).tolist()
        structure += similarity_of_structure(fake, real, mean=False).tolist()
        similarity += torch.cosine_similarity(encoder(fake).float(), vectors).tolist()
        for row, images in zip(pairs, (real, fake), strict=True):
            row.extend(to_pixels(images[: SHEET_COLUMNS - len(row)]).cpu().numpy())
    return {
        "photos": len(psnr),
        "psnr": round(float(np.mean(psnr)), 3),
        "ssim": round(float(np.mean(structure)), 4),
        "id_similarity_mean": round(float(np.mean(similarity)), 4),
        "id_similarity_5th_percentile": round(float(np.percentile(similarity, 5)), 4),
    }, pairs
