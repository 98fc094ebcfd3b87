"""Which images of a dataset are left out, on features that are made up."""

import numpy as np
import pytest

from utils.evaluation import cleaning
from utils.evaluation.cleaning import (
    DUPLICATE,
    KEPT,
    LEAK,
    NEAR_DUPLICATE,
    OUTLIER,
    TOO_FEW,
    Cleaning,
    Limits,
    largest_cluster,
    similar_pairs,
)
from utils.evaluation.metrics import normalised


def people(count, images=5, noise=0.5, width=256, seed=0):
    """(features of ``images`` of each of ``count`` identities, their centres, labels)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, width)).astype(np.float32)
    labels = np.repeat(np.arange(count), images)
    features = centres[labels] + noise * rng.normal(size=(len(labels), width)).astype(np.float32)
    return 20 * features, centres, labels


def reasons(found):
    return found.reasons.tolist()


@pytest.mark.parametrize("method", ["neighbours", "dbscan"])
@pytest.mark.parametrize("block", [3, 2048])
def test_a_stranger_is_left_out_and_the_largest_cluster_stays(method, block, monkeypatch):
    monkeypatch.setattr(cleaning, "BLOCK", block)
    features, centres, labels = people(3)
    features[7], features[8] = centres[0], centres[0]  # two images of the first identity with the second
    found = Cleaning(features, labels, 3)
    found.keep_clusters(Limits(method=method))
    assert np.flatnonzero(found.reasons).tolist() == [7, 8]
    assert set(found.reasons[7:9]) == {OUTLIER}
    assert (found.similarities[7:9] < 0.3).all()


@pytest.mark.parametrize("method", ["neighbours", "dbscan"])
def test_one_image_is_a_cluster_and_of_strangers_one_stays(method):
    assert largest_cluster(np.eye(4, dtype=np.float32)[:1], 0.3, method).tolist() == [True]
    assert largest_cluster(np.eye(4, dtype=np.float32), 0.3, method).sum() == 1


def test_a_chain_of_similar_images_is_a_cluster_of_dbscan_only():
    angles = np.radians([0, 40, 80, 120])
    chain = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert largest_cluster(chain, 0.7, "dbscan").all()
    assert largest_cluster(chain, 0.7, "neighbours").tolist() == [True, True, True, False]


def test_an_image_that_resembles_somebody_is_a_leak_and_so_is_an_identity_most_of_whose_images_do():
    features, centres, labels = people(3)
    stranger = np.random.default_rng(9).normal(size=(2, 256)).astype(np.float32)
    features[5] = stranger[1] + 0.3 * centres[1]  # of the second identity one image
    found = Cleaning(features, labels, 3)
    found.leave_out_leaks(np.concatenate([stranger, centres[2:]]), Limits(leak=0.7))
    assert reasons(found) == 5 * [KEPT] + [LEAK] + 4 * [KEPT] + 5 * [LEAK]
    assert found.others[[5, 10]].tolist() == [1, 2]


@pytest.mark.parametrize("block", [2, 2048])
def test_one_person_under_several_names_is_united_with_the_one_that_has_most_images(block, monkeypatch):
    monkeypatch.setattr(cleaning, "BLOCK", block)
    features, centres, labels = people(6)
    features[labels == 4] = centres[1]
    features[labels == 2] = centres[1] + 0.01 * features[labels == 2]
    found = Cleaning(features, labels, 6)
    found.leave_out(np.array([5, 10]), OUTLIER, 0)  # now the fifth has the most images
    found.unite_duplicates(Limits())
    assert found.merged.tolist() == [0, 4, 4, 3, 4, 5]
    assert set(found.reasons[labels == 4]) == {KEPT}
    assert set(found.reasons[6:10]) == set(found.reasons[11:15]) == {DUPLICATE}
    assert found.others[6] == 4
    assert found.united.sum() == 28


def test_pairs_are_found_in_blocks_as_at_once(monkeypatch):
    centroids = normalised(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    cosines = np.triu(centroids @ centroids.T, 1)
    expected = set(zip(*map(np.ndarray.tolist, np.nonzero(cosines > 0.8)), strict=True))
    monkeypatch.setattr(cleaning, "BLOCK", 3)
    pairs = {pair for one, other in similar_pairs(centroids, 0.8, "cpu") for pair in zip(one, other, strict=True)}
    assert pairs == expected


def test_the_same_image_twice_is_left_out_once_also_among_united_identities():
    features, _, labels = people(3)
    features[labels == 1] = features[labels == 0]  # the same person, the same five images
    found = Cleaning(features, labels, 3)
    found.unite_duplicates(Limits())
    looked_at = []
    found.leave_out_near_duplicates(Limits(), lambda one, other: looked_at.append((one, other)) or one != 7)
    assert looked_at == [(5, 0), (6, 1), (7, 2), (8, 3), (9, 4)]
    assert reasons(found)[5:10] == [NEAR_DUPLICATE, NEAR_DUPLICATE, DUPLICATE, NEAR_DUPLICATE, NEAR_DUPLICATE]
    assert found.others[5] == 0
    assert reasons(found)[:5] == 5 * [KEPT]


def test_an_identity_with_too_few_images_is_left_out_but_those_of_its_duplicates_count():
    features, centres, labels = people(3, images=2)
    features[labels == 1] = centres[0]
    found = Cleaning(features, labels, 3)
    found.unite_duplicates(Limits())
    found.leave_out_small(Limits(least=3))
    assert sorted(reasons(found)) == sorted(2 * [KEPT] + 2 * [DUPLICATE] + 2 * [TOO_FEW])
    assert set(found.reasons[labels == 2]) == {TOO_FEW}
