"""The entropy of a value over its range, and when a difference is told."""

import numpy as np
import pytest

from utils.evaluation.image_statistics import verdict_on_spread
from utils.evaluation.spread import CELLS, Spread, spread

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("cells", "entropy"), [(1, 0.0), (2, np.log(2) / np.log(CELLS)), (CELLS, 1.0)])
def test_entropy_is_that_of_equal_counts_over_so_many_parts_of_the_range(cells, entropy):
    values = np.repeat((np.arange(cells) + 0.5) / CELLS, 6) * 180 - 90
    assert spread(values, np.arange(len(values)), (-90, 90), RNG).entropy == pytest.approx(entropy)


def test_values_outside_the_range_count_for_its_ends():
    values = np.array([-1000.0, 1000.0])
    assert spread(values, np.arange(2), (-90, 90), RNG).entropy == pytest.approx(np.log(2) / np.log(CELLS))


def test_the_standard_error_is_that_of_identities_and_not_of_images():
    values, labels = RNG.uniform(-90, 90, 40), np.arange(40)
    few = spread(values, labels, (-90, 90), np.random.default_rng(0))
    repeated = spread(np.repeat(values, 50), np.repeat(labels, 50), (-90, 90), np.random.default_rng(0))
    assert repeated == pytest.approx(few)


def test_a_verdict_names_what_differs_by_more_than_chance():
    sure, unsure = [Spread(0.4, 0.01), Spread(0.8, 0.01)], [Spread(0.7, 0.1), Spread(0.8, 0.1)]
    said = verdict_on_spread({"yaw": sure, "smile": unsure, "age": sure[::-1]}, "photos")
    assert "less than those of photos in yaw (0.40 against 0.80)" in said
    assert "more than those of photos in age (0.80 against 0.40)" in said
    assert "smile" not in said
    assert verdict_on_spread({"smile": unsure}, "photos") == "the images vary as those of photos do"
