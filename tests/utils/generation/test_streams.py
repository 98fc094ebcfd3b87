"""The random streams of generation: noise levels, noise and mask rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.masking import MaskRates
from utils.generation.streams import IDENTITY_SIGMAS, identity_stream, image_sigmas, image_stream, perturb

numbers = st.integers(0, 2**40)


@given(numbers, numbers, st.integers(0, 10**6))
def test_streams_repeat_and_differ(seed, identity, index):
    def first(stream):
        return stream.random()

    assert first(image_stream(seed, identity, index)) == first(image_stream(seed, identity, index))
    others = [
        image_stream(seed + 1, identity, index),
        image_stream(seed, identity + 1, index),
        image_stream(seed, identity, index + 1),
        identity_stream(seed, identity),
    ]
    assert first(image_stream(seed, identity, index)) not in [first(other) for other in others]


@given(numbers, numbers, st.integers(1, 60))
def test_every_block_of_sigmas_is_a_permutation(seed, identity, count):
    sigmas = image_sigmas(seed, identity, count, IDENTITY_SIGMAS)
    assert len(sigmas) == count
    for start in range(0, count - 4, 5):
        assert sorted(sigmas[start : start + 5]) == [0.3, 0.3, 0.5, 0.5, 0.7]
    assert sigmas == image_sigmas(seed, identity, count + 7, IDENTITY_SIGMAS)[:count]


@given(numbers, st.floats(0, 5))
def test_noise_keeps_the_norm(seed, sigma):
    vector = np.random.default_rng(seed).standard_normal(512).astype(np.float32)
    noisy = perturb(vector, sigma, image_stream(seed, 0, 0))
    assert noisy.dtype == np.float32
    assert np.linalg.norm(noisy) == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    if sigma == 0:
        assert np.allclose(noisy, vector)


def test_noise_has_the_size_asked_for():
    vector = np.full(512, 1.0, np.float32)
    expected = 1 / np.sqrt(1 + 0.7**2)  # cosine of a vector with itself plus independent noise
    cosines = [vector @ perturb(vector, 0.7, image_stream(0, 0, i)) / 512 for i in range(200)]
    assert np.mean(cosines) == pytest.approx(expected, abs=0.01)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 2), st.floats(0, 2), st.floats(0, 1, exclude_max=True))
def test_rates_stay_in_range(a, b, mu, std, uniform):
    ratios = MaskRates(min(a, b), max(a, b), mu, std)
    assert ratios.minimum <= ratios.rate(uniform) <= ratios.maximum


def test_rates_follow_the_truncated_normal():
    """Against rejection sampling of the same distribution."""
    rng = np.random.default_rng(0)
    normal = rng.normal(0.15, 0.25, 400_000)
    reference = np.sort(normal[(normal >= 0.1) & (normal <= 1)])
    ratios = MaskRates(0.1, 1.0, 0.15, 0.25)
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert ratios.rate(quantile) == pytest.approx(reference[int(quantile * len(reference))], abs=0.005)


@pytest.mark.parametrize("ratios", [(-0.1, 1, 0, 1), (0.5, 0.4, 0, 1), (0, 1.1, 0, 1), (0, 1, 0, -1)])
def test_impossible_ratios_are_refused(ratios):
    with pytest.raises(ValueError, match="mask ratios"):
        MaskRates(*ratios)
