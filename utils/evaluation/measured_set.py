"""A dataset with the FR features of its images: what measuring a dataset starts from."""

from itertools import islice

import numpy as np
import torch
from tqdm import tqdm

from models.errors import UserError
from models.pixels import to_images
from utils.data.photo_loader import Unreadable, read_faces
from utils.evaluation import metrics as metrics
from utils.evaluation.feature_cache import FeatureCache


class MeasuredSet:
    """A FaceSet with the FR features of those images that can be read.

    ``features`` (N, D), ``labels`` (N,), ``good`` (N,): which images of the FaceSet these are; ``counts`` (C,), the
    images of each person, ``sums`` (C, D) of their directions, ``centres`` (C, D), those of length 1. Raises UserError
    when not one image can be read.
    """

    def __init__(self, faces, path, encoder, encoder_hash, precision, batch_size, workers=None):
        """``path``: where the features are kept, without an ending; ``workers``: as in ``read_ahead``."""
        self.workers = workers
        cache = FeatureCache(path, faces, encoder, encoder_hash, precision)
        cache.fill(batch_size, workers)
        if not len(cache.good):
            raise UserError(f"{faces.path}: not one image could be read.")
        self.faces, self.features, self.good = faces, cache.features, cache.good
        self.labels = faces.labels[self.good]
        self.counts = np.bincount(self.labels, minlength=len(faces.people))
        self.sums = metrics.sums_of(self.features, self.labels, len(faces.people))
        self.centres = metrics.normalised(self.sums)

    def images(self, places):
        """(n, 112, 112, 3) uint8 of readable images by their place among these."""
        return np.stack([self.faces.image(int(self.good[place])) for place in places])

    def images_of(self, label, most):
        """The first images of a person, at most ``most``, (112, 112, 3) uint8 each; none when none can be read."""
        return [self.images([place])[0] for place in np.flatnonzero(self.labels == label)[:most]]

    @torch.inference_mode()
    def outputs(self, model, places, batch_size, what):
        """What a frozen ``model`` says of some images, (n, D) float32 on the CPU. ``what``: shown with the progress."""
        device, parts = next(model.parameters()).device, []
        photos = read_faces(self.faces, self.good[places], self.workers, batch_size)
        for _ in tqdm(range(0, len(places), batch_size), desc=what, leave=False, delay=2):
            images = np.stack([self._still_readable(*photo) for photo in islice(photos, batch_size)])
            parts.append(model(to_images(torch.from_numpy(images).to(device))).float().cpu())  # (B, D)
        return torch.cat(parts)

    def _still_readable(self, index, image):
        if isinstance(image, Unreadable):
            raise UserError(f"{self.faces.name(index)}: {image.reason}; it could be read a while ago.")
        return image
