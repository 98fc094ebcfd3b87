"""FR training that starts from a trained backbone: BatchNorm statistics and class centroids of the new photos."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from torch.optim.swa_utils import update_bn
from tqdm.auto import tqdm

from models.iresnet import IResNet
from models.pixels import to_images
from models.recogniser import Recogniser
from models.transfer import upload
from models.weight_files import load_file, load_weights_strict, state_dict_of
from utils.data.face_set import FaceSet
from utils.data.fr_data import FirstPhotos, RecognitionData, to_device
from utils.data.loader import drop_broken, make_loader

NORM_PHOTOS, NORM_BATCH = 1024, 64  # photos of the BatchNorm statistics: in all, and in a batch
CENTROID_PHOTOS, CENTROID_BATCH = 4, 256  # photos of the centroids: of each identity, and in a batch


def load_backbone(backbone: IResNet, path: Path | str) -> None:
    """Load the weights of a face encoder. Raises UserError when the file is of another kind or size."""
    load_weights_strict(
        backbone, state_dict_of(load_file(path), path), path, "a face encoder of this --network, --width and --se"
    )


def adapt_batch_norm(model: Recogniser, data: RecognitionData, device: torch.device) -> None:
    """Replace the BatchNorm statistics by those of the training photos (AdaBN, Li et al., 2017).

    With the statistics of other photos the class centroids would be wrong.
    """
    chosen = np.linspace(0, len(data) - 1, min(NORM_PHOTOS, len(data))).astype(int)
    parts = np.array_split(chosen, max(1, len(chosen) // NORM_BATCH))
    loader = make_loader(data, [[(0, int(index)) for index in part] for part in parts], 0, False)
    update_bn((to_device(drop_broken(batch), device).images for batch in loader), model.backbone, device)


@torch.no_grad()
def init_head_from_centroids(
    model: Recogniser, faces: FaceSet, autocast: Callable[[], AbstractContextManager], workers: int
) -> None:
    """Set the head's class directions to the mean features of the identities' first photos.

    A randomly initialised head would first undo what the backbone has learned. With domain mixup, whose real identities
    are further classes, the head is left as it is.
    """
    if len(faces.identities) != model.head.classes:
        return
    share, device = model.head.share, model.head.directions.device
    photos = FirstPhotos(faces, CENTROID_PHOTOS, share)
    parts = np.array_split(np.arange(len(photos)), math.ceil(len(photos) / CENTROID_BATCH))
    sums = torch.zeros_like(model.head.directions)  # (c, D), of the classes whose directions this process holds
    counts = torch.zeros_like(sums[:, 0])  # (c,)
    model.eval()
    loader = make_loader(photos, [part.tolist() for part in parts], workers, device.type == "cuda")
    for batch in tqdm(loader, desc="centroids", unit="batch", leave=False):
        batch = drop_broken(batch)
        pixels, labels = upload(batch.pixels, device), upload(batch.label - share.start, device)
        with autocast():
            features = nn.functional.normalize(model.backbone(to_images(pixels)))  # (B, D)
        sums.index_add_(0, labels, features.float())
        counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
    model.train()
    # An identity whose photos are all broken keeps its random direction.
    known = counts[:, None] > 0  # (c, 1)
    model.head.init_from_centroids(torch.where(known, sums / counts[:, None], model.head.directions))
