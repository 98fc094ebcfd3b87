"""The step of FR training: its batch on the device, its update; and how a run begins with a known backbone."""

import math

import numpy as np
import torch
import torch.nn as nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from models.pixels import to_images
from models.transfer import upload
from utils.data.fr_data import PhotosOfPeople, assemble
from utils.data.training_data import make_loader, without_broken

NORM_PHOTOS, NORM_BATCH = 1024, 64  # whose BatchNorm statistics are taken
CENTRE_PHOTOS, CENTRE_BATCH = 4, 256  # of each person, and in each batch of many people


def make_optimizer(model, args):
    """SGD, without weight decay on BatchNorm.

    Fused, as this kind skips a step whose float16 gradients overflow without the host asking the GPU. Its momentum
    begins with zeros here: PyTorch leaves it uninitialised if the very first step is one of those.
    """
    norms = (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))
    without_decay = {id(p) for norm in norms for p in norm.parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in without_decay], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if id(p) in without_decay], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, fused=True)
    for parameter in parameters if args.momentum else ():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def batch_on_device(columns, device):
    """What Recogniser.forward takes, on the device, of the columns of an Item's batch.

    Whether there are mixtures is decided here, on the host, where the answer costs nothing.
    """
    pixels, holes, first, second, share, poses = columns
    mixed = bool((share < 1).any())
    pixels, holes, first, poses, share = (upload(x, device) for x in (pixels, holes, first, poses, share))
    mixture = (upload(second, device), share.float()) if mixed else (None, None)
    return assemble(pixels, holes, share), first, *mixture, poses


class TrainingStep:
    """One step of training. ``parallel``: ``model``, perhaps wrapped to exchange gradients between processes.

    ``autocast``: makes the autocast context.
    """

    def __init__(self, args, model, parallel, optimizer, scaler, autocast):
        self.model, self.parallel, self.optimizer, self.scaler = model, parallel, optimizer, scaler
        self.autocast, self.clip_grad = autocast, args.clip_grad

    def __call__(self, batch, lr):
        """({"loss": scalar}, {name: mean feature norm or gradient norm}) of a batch of ``batch_on_device``."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.autocast():
            losses, norms = self.parallel(*batch)
        loss = losses.mean()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        gradient_norm = nn.utils.clip_grad_norm_(self.model.backbone.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss}, {"norm": norms.mean(), "gradient_norm": gradient_norm}


def adapt_norms(model, data, device):
    """BatchNorm's averages become those of these photos (AdaBN, Li et al., 2017): others would mislead the centres."""
    chosen = np.linspace(0, len(data) - 1, min(NORM_PHOTOS, len(data))).astype(int)
    parts = np.array_split(chosen, max(1, len(chosen) // NORM_BATCH))
    loader = make_loader(data, [[(0, int(index)) for index in part] for part in parts], 0, False)
    batches = (batch_on_device(without_broken(errors, *columns), device) for *columns, errors in loader)
    update_bn((images for images, *_ in batches), model.backbone, device)


@torch.no_grad()
def begin_at_centres(model, faces, autocast, workers):
    """Begin the head with what the backbone knows of the people: a head begun at random would undo that first."""
    if len(faces.people) != len(model.head.directions):  # domain mixup has more people, unknown to the backbone
        return
    photos, device = PhotosOfPeople(faces, CENTRE_PHOTOS), model.head.directions.device
    places = np.array_split(np.arange(len(photos)), math.ceil(len(photos) / CENTRE_BATCH))
    sums = torch.zeros_like(model.head.directions)  # (classes, D)
    counts = torch.zeros_like(sums[:, 0])  # (classes,)
    model.eval()
    loader = make_loader(photos, [part.tolist() for part in places], workers, device.type == "cuda")
    for *columns, errors in tqdm(loader, desc="centres", unit="batch", leave=False):
        pixels, labels = (upload(column, device) for column in without_broken(errors, *columns))
        with autocast():
            features = nn.functional.normalize(model.backbone(to_images(pixels)))  # (B, D)
        sums.index_add_(0, labels, features.float())
        counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
    model.train()
    # Nothing is known of a person whose photos are all broken.
    model.head.begin_at(torch.where(counts[:, None] > 0, sums / counts[:, None], model.head.directions))
