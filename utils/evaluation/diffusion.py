"""Scores of a UNet of UIFace on photos that it was not trained on, and samples of their identities."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from models.pixels import to_images, to_pixels
from models.uiface import Autoencoder, Sampling, UNet
from models.uiface.sampling import sample
from models.uiface.schedule import TIMESTEPS, add_noise
from utils.data.loader import make_loader
from utils.data.training_data import TrainingData
from utils.generation.streams import image_stream

SHEET_COLUMNS = 8
SEED = 0  # of the noise, the same in every score


@torch.inference_mode()
def score_unet(
    net: UNet, autoencoder: Autoencoder, data: TrainingData, indices: Sequence[int], batch_size: int, sheet_steps: int
) -> tuple[dict[str, float], list[list[np.ndarray]]]:
    """({name: score}, [photos, samples, samples]) of the records of a TrainingData at ``indices``.

    ``net`` is in eval mode. The scores are the mean squared errors of the predicted noise, with the photo's identity
    vector and with the empty context, at timesteps that are spread evenly over the photos; the noise comes from
    (SEED, record). The samples have the identities of the first photos and two noises; ``sheet_steps``: their sampling
    steps, 0 for photos only. The pictures are lists of (112, 112, 3) uint8.
    """
    device, side = next(net.parameters()).device, net.architecture.latent_side
    batches = [
        [(0, int(index)) for index in indices[first : first + batch_size]]
        for first in range(0, len(indices), batch_size)
    ]
    with_identity, without, photos, contexts = [], [], [], []
    for pixels, vectors, keys, _ in make_loader(data, batches, 0, False):
        seen = len(with_identity)
        t = (seen + torch.arange(len(keys))) * TIMESTEPS // len(indices)  # (B,)
        latents = autoencoder.encode_faces(to_images(pixels.to(device)), side)  # (B, 3, h, w)
        noise = stacked_noise([image_stream(SEED, int(key), 0) for key in keys], latents.shape[1:]).to(device)
        t, context = t.to(device), F.normalize(vectors.to(device))  # (B,), (B, 512)
        noisy = add_noise(latents, noise, t)  # (B, 3, h, w)
        for errors, given in ((with_identity, context), (without, None)):
            errors += (net(noisy, t, given).noise - noise).square().mean((1, 2, 3)).tolist()
        room = SHEET_COLUMNS - len(photos)
        photos += list(pixels[:room].numpy())
        contexts += list(context[:room])
    scores = {
        "photos": len(with_identity),
        "loss": round(float(np.mean(with_identity)), 5),
        "loss_without_identity": round(float(np.mean(without)), 5),
    }
    rows = [photos]
    for row in range(2 if sheet_steps else 0):
        streams = [image_stream(SEED, number, 1 + row) for number in range(len(photos))]
        noise = stacked_noise(streams, latents.shape[1:]).to(device)
        drawn = sample(net, noise, torch.stack(contexts), Sampling(sheet_steps))
        rows.append(list(to_pixels(autoencoder.decode_faces(drawn)).cpu().numpy()))
    return scores, rows


def stacked_noise(streams: Sequence[np.random.Generator], shape: Sequence[int]) -> torch.Tensor:
    """Normal noise (N, *shape) float32, a row of each of N streams."""
    return torch.from_numpy(np.stack([stream.standard_normal(tuple(shape), np.float32) for stream in streams]))
