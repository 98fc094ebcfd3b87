"""Where reconstructions differ from photos."""

import torch

from utils.evaluation.residual_map import ResidualMap


def photos(count=200):
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 0.5 - 0.25


def test_a_spot_at_a_fixed_place_is_the_peak_and_errors_that_vary_are_not():
    real, residuals = photos(), ResidualMap()
    fake = real + 0.1 * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    residuals.add(fake[:100], real[:100])
    residuals.add(fake[100:], real[100:])
    assert residuals.peak() < 3
    assert 9 < residuals.mean_absolute().mean() < 11  # .1 * 127.5 * sqrt(2 / pi)

    fake[:, :, 60:64, 50:54] += 0.2
    spotted = ResidualMap()
    spotted.add(fake, real)
    assert 20 < spotted.peak() < 28
    row, column = divmod(int(spotted.fixed().abs().argmax()), 112)
    assert 60 <= row < 64
    assert 50 <= column < 54


def test_a_difference_of_the_whole_image_is_no_artefact_at_a_place():
    residuals = ResidualMap()
    residuals.add(photos() + 0.2, photos())
    assert residuals.peak() < 0.01
    assert residuals.picture().shape == (448, 896, 3)
