"""Noise in a cone: no image's vector is nearer to another identity vector than to its own."""

import json

import numpy as np
import pytest
from commands import run
from paths import PHOTOS
from processes import run_script
from written_datasets import assert_same_dataset

import image_generation
import image_generation_with_reference
import pose_image_generation
from scripts import push_dataset
from utils.dataset.layout import manifest_path, settings_path
from utils.generation import cone_noise
from utils.generation.cone_noise import cosine, lower_bounds, perturb_in_cone


def random_vectors(count, width=512, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32) * 2


def exact_bounds(vectors, lowest):
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    return np.maximum(lowest, np.cos(np.arccos(cosines.max(1)) / 2))


def test_the_bound_is_half_the_angle_to_the_nearest_of_all_others(monkeypatch):
    monkeypatch.setattr(cone_noise, "ROWS", 7)
    monkeypatch.setattr(cone_noise, "COLUMNS", 11)
    vectors = random_vectors(50, width=8)
    bounds = lower_bounds(vectors, 0.6, range(50))
    assert bounds == pytest.approx(exact_bounds(vectors, 0.6), abs=2 * cone_noise.MARGIN)
    assert (bounds >= exact_bounds(vectors, 0.6)).all()
    assert lower_bounds(vectors, 0.6, range(20, 30)).tolist() == bounds[20:30].tolist()
    assert (lower_bounds(vectors, 0.999, range(50)) >= 0.999).all()


def test_no_vector_is_nearer_to_another_identity_than_to_its_own():
    vectors = random_vectors(30, width=4)  # in four dimensions all are near to some other
    bounds = lower_bounds(vectors, 0.1, range(30))
    stream = np.random.default_rng(1)
    for own in range(30):
        for _ in range(50):
            noisy = perturb_in_cone(vectors[own], vectors[own], bounds[own], stream)
            assert max(range(30), key=lambda other: cosine(noisy, vectors[other])) == own
            assert np.linalg.norm(noisy) == pytest.approx(np.linalg.norm(vectors[own]), rel=1e-5)


def test_the_cosine_is_uniform_above_the_bound():
    vector, stream = random_vectors(1)[0], np.random.default_rng(1)
    cosines = [cosine(perturb_in_cone(vector, vector, 0.6, stream), vector) for _ in range(2000)]
    assert min(cosines) >= 0.6 - 1e-6
    assert np.quantile(cosines, (0.25, 0.5, 0.75)) == pytest.approx([0.7, 0.8, 0.9], abs=0.02)


@pytest.mark.parametrize("moved", [0.05, 0.3, 1.0, 5.0])
def test_noise_on_an_optimised_vector_stays_in_the_cone_around_the_identity_vector(moved):
    """Also where the optimised vector lies outside of it."""
    identity, direction = random_vectors(2)
    stream = np.random.default_rng(1)
    optimised = identity + moved * direction
    cosines = [cosine(perturb_in_cone(optimised, identity, 0.8, stream), identity) for _ in range(200)]
    assert min(cosines) >= 0.8 - 1e-6
    assert np.linalg.norm(perturb_in_cone(optimised, identity, 0.8, stream)) == pytest.approx(
        np.linalg.norm(optimised), rel=1e-5
    )


def test_one_identity_has_the_lower_bound_and_equal_vectors_have_no_noise():
    vectors = random_vectors(2)
    assert lower_bounds(vectors[:1], 0.6, range(1)).tolist() == [0.6]
    bound = lower_bounds(vectors[[0, 1, 0]], 0.6, range(3))
    assert bound[0] == bound[2] == 1 > bound[1]
    assert perturb_in_cone(vectors[0], vectors[0], 1.0, np.random.default_rng(0)) == pytest.approx(vectors[0], rel=1e-5)


def words(demo, folder, start_end, *more):
    flags = ["--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--start_end", start_end]
    flags += ["--noise", "cone", "--lower_bound", 0.7, "--max_iters", 2, "--example", 3, "--output_dir", folder]
    return [*demo.models, *flags, "--name", "cone", *more]


def lines_of(folder):
    return [json.loads(line) for line in manifest_path(folder).read_text().splitlines()]


@pytest.mark.slow
def test_the_manifest_has_the_cosine_of_each_image_and_slices_and_ranks_make_the_same_dataset(demo, tmp_path, capsys):
    run(image_generation.main, *words(demo, tmp_path / "whole", "0:6"))
    assert "the cones of 6 of 6 identities are narrower" in capsys.readouterr().out
    whole = tmp_path / "whole" / "cone"
    bounds = exact_bounds(np.load(demo.vectors), 0.7)
    lines = lines_of(whole)
    assert len(lines) == 18
    assert all("sigma" not in line and line["cosine"] >= bounds[line["identity"]] - 1e-4 for line in lines)
    assert len({line["cosine"] for line in lines}) == 18
    settings = json.loads(settings_path(whole).read_text())["settings"]
    assert (settings["noise"], settings["lower_bound"]) == ("cone", 0.7)
    run(image_generation.main, *words(demo, tmp_path / "parts", "0:2"))
    run_script("image_generation.py", *words(demo, tmp_path / "parts", "2:6"), ranks=2)
    assert_same_dataset(tmp_path / "parts" / "cone", whole)


def test_identities_whose_vector_occurs_twice_are_named(demo, tmp_path, capsys):
    vectors = np.load(demo.vectors)[[0, 1, 0]]
    np.save(tmp_path / "twice.npy", vectors)
    flags = words(demo, tmp_path, "0:3", "--skip_attrop", "--example", 1)
    run(image_generation.main, *flags, "--center_feature", tmp_path / "twice.npy")
    assert "2 identities have a vector that occurs twice" in capsys.readouterr().out


def test_the_card_and_the_export_say_cone_and_cosine(demo, tmp_path, capsys):
    best = ["--example", 1, "--best", 1, "--of", 3, "--min_quality", 1]
    run(image_generation.main, *words(demo, tmp_path, "0:1", "--skip_attrop", *best))
    push = [tmp_path / "cone", "me/cone", "--license", "mit", "--dry_run"]
    run(push_dataset.main, *push)
    card = (tmp_path / "cone.hub" / "README.md").read_text()
    assert "in a cone around the identity vector, cosine 0.7 or more" in card
    assert "images of an identity that are kept, the best of those drawn | 1" in card
    (metadata,) = (tmp_path / "cone.hub").rglob("metadata.jsonl")
    line = json.loads(metadata.read_text())
    assert (line["sigma"], line["cosine"] >= 0.7) == (None, True)


def test_another_noise_into_the_same_dataset_is_refused(demo, tmp_path, capsys):
    run(image_generation.main, *words(demo, tmp_path, "0:1", "--skip_attrop"))
    with pytest.raises(SystemExit):
        run(image_generation.main, *words(demo, tmp_path, "0:2", "--skip_attrop", "--lower_bound", 0.5))
    assert "lower_bound is 0.7 there and 0.5 now" in capsys.readouterr().err


def test_people_in_photos_and_poses_have_cones_too(demo, tmp_path):
    flags = [*demo.models, "--noise", "cone", "--example", 3, "--name", "cone", "--output_dir", tmp_path]
    for start_end in ("0:1", "1:3"):
        photos = ["--image_file", PHOTOS, "--per_person", "--start_end", start_end]
        run(image_generation_with_reference.main, *flags, *photos)
    lines = lines_of(tmp_path / "cone")
    assert {line["name"] for line in lines} == {"person1", "person3", "person4"}
    assert all(0.6 <= line["cosine"] <= 1 for line in lines)
    run(pose_image_generation.main, *words(demo, tmp_path, "0:1", "--pose", 10, "--pose_weights", demo.pose))
    assert all(0 < line["cosine"] < 1 for line in lines_of(tmp_path / "cone-10"))
