"""Every random draw of generation, from (seed, identity, image) alone.

Streams are NumPy generators on the CPU, keyed by what they are for: batch size, ranks, order and
resuming change none of the draws.
"""

from itertools import islice

import numpy as np

# One block of the published noise levels: over a block of images each is used as often as it stands here.
IDENTITY_SIGMAS = (0.3, 0.3, 0.5, 0.5, 0.7)


def image_stream(seed, identity, index, attempt=0):
    """The stream of one image: noise first, then mask draws; a fresh one for every further attempt at the image."""
    return _stream(seed, identity, 0, index, *([attempt] if attempt else []))


def identity_stream(seed, identity):
    """The stream of one identity vector: the mask draws of its AttrOP."""
    return _stream(seed, identity, 1)


def sigma_stream(seed, identity):
    """The stream that orders the sigmas of one identity's images."""
    return _stream(seed, identity, 2)


def _stream(seed, *key):
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def image_sigmas(seed, identity, count, block):
    """``count`` noise sigmas: each stretch of ``len(block)`` images is a random permutation of ``block``."""

    def permutations(stream):
        while True:
            yield from stream.permutation(block).tolist()

    return list(islice(permutations(sigma_stream(seed, identity)), count))


def perturb(vector, sigma, stream):
    """``vector`` (512,) plus Gaussian noise, ``sigma`` per dimension, rescaled to the same norm (paper section 3.3)."""
    noisy = vector + sigma * stream.standard_normal(vector.shape)
    return (noisy * (np.linalg.norm(vector) / np.linalg.norm(noisy))).astype(np.float32)
