"""The metrics of datasets, against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.evaluation import metrics as metrics


def people(seed, classes=7, images=6, width=16, noise=0.5):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), images))
    return (rng.standard_normal((classes, width))[labels] + noise * rng.standard_normal((len(labels), width))), labels


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@given(st.integers(0, 1000), st.integers(2, 40))
@settings(max_examples=25, deadline=None)
def test_separability_is_the_definition(seed, count):
    centres = unit(np.random.default_rng(seed).standard_normal((count, 5)))
    best, place = metrics.nearest_preceding(centres)
    cosines = centres @ centres.T
    for i in range(1, count):
        assert best[i] == pytest.approx(cosines[i, :i].max(), abs=1e-5)
        assert cosines[i, place[i]] == pytest.approx(cosines[i, :i].max(), abs=1e-5)
    separate = 1 + sum(cosines[i, :i].max() <= 0.4 for i in range(1, count))
    assert metrics.separability(best)[-1] == (count, separate)


def test_own_centre_leaves_the_image_out_and_strangers_are_found():
    features, labels = people(0)
    sums = metrics.sums_of(features, labels, 7)
    own = metrics.own_similarities(features, labels, sums, np.bincount(labels))
    for i in range(len(features)):
        others = unit(features)[(labels == labels[i]) & (np.arange(len(features)) != i)].sum(0)
        assert own[i] == pytest.approx(float(unit(features)[i] @ others / np.linalg.norm(others)), abs=1e-4)
    share, checked = metrics.misassigned_fraction(
        features, labels, metrics.normalised(sums), own, np.random.default_rng(0), 1000
    )
    cosines = unit(features) @ metrics.normalised(sums).T
    cosines[np.arange(len(labels)), labels] = -2
    assert checked == len(features)
    assert share == pytest.approx((cosines.max(1) > own).mean())
    alone = metrics.own_similarities(
        features[:1], np.array([0]), metrics.sums_of(features[:1], np.array([0]), 1), np.ones(1)
    )
    assert np.isnan(alone).all()


def test_pairs_are_of_one_and_of_two_people():
    features, labels = people(1, noise=0.01)
    genuine, impostor = metrics.genuine_and_impostor(features, labels, np.random.default_rng(0), 500)
    assert len(genuine) == 500
    assert genuine.min() > 0.99
    assert impostor.max() < 0.99
    assert metrics.error_rate(genuine, impostor) == 0


def test_histogram_counts_every_pair_once():
    centres = unit(np.random.default_rng(0).standard_normal((30, 8)))
    counts, used = metrics.histogram_of_pairs(centres, np.random.default_rng(0), 100)
    assert (counts.sum(), used) == (30 * 29 // 2, 30)
    assert metrics.histogram_of_pairs(centres, np.random.default_rng(0), 10)[0].sum() == 45


def test_leakage_finds_the_planted_image():
    features, _ = people(2)
    reference = unit(np.random.default_rng(5).standard_normal((9, 16)))
    features[11] = 3 * reference[4]
    summary, worst = metrics.leakage(features, reference, np.random.default_rng(0), 10_000, 3)
    assert worst[0][:2] == (11, 4)
    assert summary["largest"] == pytest.approx(1, abs=1e-5)
    assert summary["images"] == len(features)


def test_precision_recall_and_frechet_distance_of_known_distributions():
    rng = np.random.default_rng(0)
    real, near, far = rng.standard_normal((300, 4)), rng.standard_normal((300, 4)), rng.standard_normal((300, 4)) + 50
    narrow = 0.2 * near
    assert min(metrics.precision_and_recall(real, near)) > 0.9
    assert metrics.precision_and_recall(real, far) == (0, 0)
    precision, recall = metrics.precision_and_recall(real, narrow)
    assert precision > 0.95 > 0.7 > recall
    assert metrics.frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    a, b = rng.standard_normal((40_000, 1)) * 2 + 3, rng.standard_normal((40_000, 1))
    wide, thin = (np.hstack([x, rng.standard_normal((40_000, 1))]) for x in (a, b))
    assert metrics.frechet_distance(wide, thin) == pytest.approx(9 + 1, rel=0.05)  # (3-0)^2 + (2-1)^2


def test_people_of_a_larger_set_are_compared_at_equal_counts():
    centres = unit(np.random.default_rng(0).standard_normal((50, 4)))
    rng = np.random.default_rng(1)
    assert metrics.separate_among(centres, 1, rng) == 1
    whole = metrics.separability(metrics.nearest_preceding(centres)[0])[-1][1]
    assert metrics.separate_among(centres, 50, rng) == whole


def test_consistency_is_the_mean_similarity_of_all_pairs_of_an_identity():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [2, 5, 1])
    features = rng.normal(size=(len(labels), 16)).astype(np.float32)
    counts, unit = np.bincount(labels), metrics.normalised(features)
    found = metrics.consistency(metrics.sums_of(features, labels, 3), counts)
    pairs = [[unit[i] @ unit[j] for i, j in combinations(np.flatnonzero(labels == n), 2)] for n in (0, 1)]
    assert found == pytest.approx([np.mean(p) for p in pairs], abs=1e-6)
