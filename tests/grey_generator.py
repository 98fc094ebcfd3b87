"""A generator whose image is as grey as the first number of the vector, and an AttrOP of grey images."""

import numpy as np
import torch

from models import AttrOP, Row, close_to
from models.vec2face import Output


class Drawing(torch.nn.Module):
    """A generator small enough to reason about: the image's grey level is the vector's first number."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()), requires_grad=False)
        self.batches = []

    def forward(self, vectors, mask):
        self.batches.append(vectors.detach().clone())
        return Output(vectors[:, :1, None, None].expand(-1, 3, 112, 112), None, None)


def constant_features(images):
    """A face encoder that gives all images the same direction, so that the identity target is always met."""
    return torch.ones(len(images), 512) + 0 * images.mean((1, 2, 3))[:, None]


def grey_rows(levels):
    for number, level in enumerate(levels):
        vector = np.zeros(512, np.float32)
        vector[0] = level
        yield Row(number, vector, np.ones(512, np.float32), lambda: (np.arange(49.0), 0.2))


def grey_attrop(level, batch_size, max_iters=50, **options):
    target = close_to("grey", lambda images: images[:, 0, 0, 0], level, tolerance=0.05)
    return AttrOP(Drawing(), constant_features, [target], batch_size=batch_size, max_iters=max_iters, **options)
