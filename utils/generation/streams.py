"""Random streams of generation, each a function of (seed, identity, image) alone.

A stream is a NumPy generator on the CPU, keyed by its purpose, so that draws do not depend on batch size, number of
processes, order or resuming.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

# One block of the published noise levels: in each block of five images each entry is used once.
IDENTITY_SIGMAS = (0.3, 0.3, 0.5, 0.5, 0.7)


def image_stream(seed: int, identity: int, index: int, attempt: int = 0) -> np.random.Generator:
    """The stream of one attempt at an image: first the noise on the vector, then the token mask."""
    return _stream(seed, identity, 0, index, *([attempt] if attempt else []))


def identity_stream(seed: int, identity: int) -> np.random.Generator:
    """The stream of one identity vector: the token masks of AttrOP on it."""
    return _stream(seed, identity, 1)


def sigma_stream(seed: int, identity: int) -> np.random.Generator:
    """The stream that orders the noise levels of one identity's images."""
    return _stream(seed, identity, 2)


def anchor_stream(seed: int, identity: int) -> np.random.Generator:
    """The stream of the token mask of one identity's anchor, the image that a second face encoder compares with."""
    return _stream(seed, identity, 3)


def landmark_stream(seed: int, identity: int) -> np.random.Generator:
    """The stream that draws the poses of one identity's images, one after the other."""
    return _stream(seed, identity, 4)


def mixture_stream(seed: int, identity: int, index: int) -> np.random.Generator:
    """The stream of identity mixup in one image: with whom its identity is mixed, and the share of each."""
    return _stream(seed, identity, 5, index)


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def image_sigmas(seed: int, identity: int, count: int, block: Sequence[float]) -> list[float]:
    """``count`` noise levels: each run of ``len(block)`` images has a random permutation of ``block``."""

    def permutations(stream: np.random.Generator) -> Iterator[float]:
        while True:
            yield from stream.permutation(block).tolist()

    return list(islice(permutations(sigma_stream(seed, identity)), count))


def perturb(vector: np.ndarray, sigma: float, stream: np.random.Generator) -> np.ndarray:
    """v (512,) -> (v + n) |v| / |v + n| (512,) float32 with n ~ N(0, sigma^2 I) (paper section 3.3)."""
    noisy = vector + sigma * stream.standard_normal(vector.shape)
    return (noisy * (np.linalg.norm(vector) / np.linalg.norm(noisy))).astype(np.float32)
