"""Scores of reconstructed photos."""

import torch

from utils.evaluation.reconstruction import high_frequency_fraction


def test_the_fraction_of_high_frequencies_tells_coarse_from_fine_images():
    x = torch.arange(112) / 112 * 2 * torch.pi
    coarse, fine = (torch.sin(x * cycles).expand(1, 3, 112, 112) for cycles in (3, 40))
    assert high_frequency_fraction(coarse).item() < 0.01
    assert high_frequency_fraction(fine).item() > 0.99
    assert high_frequency_fraction(torch.zeros(1, 3, 112, 112)).item() == 0
