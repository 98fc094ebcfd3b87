"""Identity vectors: what the sampler guarantees, on real arithmetic."""

import json
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import files_of
from processes import Script

from scripts import sample_identities
from utils.generation.identity_sampling import (
    GaussianSampler,
    PCASampler,
    mix_pairs,
    sample_apart,
    with_mean_similarity,
)


def sample(*words):
    sample_identities.main([*map(str, words), "--device", "cpu"])


def cosines(a, b=None):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, a if b is None else b))
    return a.astype(np.float64) @ b.T.astype(np.float64)


def off_diagonal(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)]


@given(st.integers(0, 1000), st.floats(0.3, 0.9), st.integers(2, 12))
@settings(max_examples=20, deadline=None)
def test_no_two_are_closer_than_the_threshold(seed, threshold, width):
    """In spaces so small that most candidates are refused."""
    blocks = [vectors for _, vectors in sample_apart(GaussianSampler(width=width), 40, threshold, seed)]
    vectors = np.concatenate(blocks)
    assert 1 <= len(vectors) <= 40
    assert len(vectors) < 2 or off_diagonal(cosines(vectors)).max() <= threshold


def test_the_pca_sampler_has_the_mean_and_covariance_of_the_features():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3000, 6)) @ rng.standard_normal((6, 6)) + rng.standard_normal(6)
    drawn = PCASampler(features.astype(np.float32)).draw(rng, 60_000)
    assert np.allclose(drawn.mean(0), features.mean(0), atol=0.06)
    assert np.allclose(np.cov(drawn.T), np.cov(features.T), atol=0.25)


def test_a_longer_file_begins_with_the_shorter_one(tmp_path):
    for count in (50, 80):
        sample("--method", "gaussian", "--count", count, "--output", tmp_path / f"{count}.npy")
    assert np.array_equal(np.load(tmp_path / "80.npy")[:50], np.load(tmp_path / "50.npy"))


def test_vectors_keep_away_from_identities_to_avoid_and_the_report_has_the_similarities(demo, tmp_path):
    words = ["--features", demo.vectors, "--count", 20, "--max_similarity", 0.35, "--avoid", demo.vectors]
    sample(*words, "--output", tmp_path / "v.npy")
    vectors = np.load(tmp_path / "v.npy")
    assert (vectors.shape, vectors.dtype) == ((20, 512), np.float32)
    assert cosines(vectors, np.load(demo.vectors)).max() <= 0.35
    report = json.loads((tmp_path / "v.json").read_text())
    assert report["largest_similarity"] == pytest.approx(off_diagonal(cosines(vectors)).max(), abs=1e-5)
    assert report["mean_similarity"] == pytest.approx(off_diagonal(cosines(vectors)).mean(), abs=1e-5)
    assert report["largest_similarity_to_avoided"] <= 0.35
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["v.json", "v.npy"]


def test_files_that_are_there_stay_unless_overwrite_is_given(tmp_path, capsys):
    words = ["--method", "gaussian", "--count", 5, "--mixup", 3, "--output", tmp_path / "v.npy"]
    sample(*words)
    before = files_of(tmp_path)
    assert set(before) == {"v.npy", "v.json", "v_mixup.npy", "v_mixup_labels.npy"}
    for kept in before:  # one of them is enough
        folder = tmp_path / f"only {kept}"
        folder.mkdir()
        (folder / kept).write_bytes(b"mine")
        with pytest.raises(SystemExit) as error:
            sample(*words[:-1], folder / "v.npy")
        assert error.value.code == 2
        assert f"{kept}: exists already; give --overwrite" in capsys.readouterr().err
        assert files_of(folder) == {kept: b"mine"}
    sample("--method", "gaussian", "--count", 6, "--output", tmp_path / "v.npy", "--overwrite")
    assert len(np.load(tmp_path / "v.npy")) == 6
    assert sorted(path.name for path in tmp_path.glob("v*.*")) == ["v.json", "v.npy"]  # no mixtures of other vectors


def test_a_full_space_says_how_many_fit(demo, tmp_path, capsys):
    words = ["--features", demo.vectors, "--max_similarity", 0.05, "--output", tmp_path / "v.npy"]
    with pytest.raises(SystemExit) as error:
        sample(*words, "--count", 500)
    assert error.value.code == 2
    message = capsys.readouterr().err
    fit = int(message.split("only ")[1].split()[0])
    assert not (tmp_path / "v.npy").exists()
    sample(*words, "--count", fit)
    assert len(np.load(tmp_path / "v.npy")) == fit


def test_a_killed_run_goes_on_to_the_same_file(tmp_path):
    words = ["--method", "gaussian", "--max_similarity", "0.1", "--count", "500"]
    sample(*words, "--output", tmp_path / "whole.npy")
    again = [*words, "--output", str(tmp_path / "parts.npy"), "--device", "cpu"]
    process = Script("scripts/sample_identities.py", *again)
    process.wait_until((tmp_path / "parts.npy.partial.json").exists)
    process.signal(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    with open(tmp_path / "parts.npy.partial", "ab") as file:
        file.write(b"half a row")
    sample(*again)
    assert np.array_equal(np.load(tmp_path / "parts.npy"), np.load(tmp_path / "whole.npy"))


def test_other_settings_do_not_go_on_with_a_begun_file(tmp_path, capsys):
    words = ["--method", "gaussian", "--max_similarity", 0.01, "--output", tmp_path / "v.npy"]
    with pytest.raises(SystemExit):
        sample(*words, "--count", 3000)
    assert "the space of --method gaussian is full" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sample(*words, "--count", 3000, "--seed", 1)
    assert "an unfinished run with other settings" in capsys.readouterr().err


@given(st.floats(0.05, 0.95), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_the_mean_similarity_can_be_chosen(wanted, seed):
    vectors = np.random.default_rng(seed).standard_normal((60, 32)).astype(np.float32) * 4
    pulled = with_mean_similarity(vectors, wanted)
    assert off_diagonal(cosines(pulled)).mean() == pytest.approx(wanted, abs=1e-3)
    assert np.allclose(np.linalg.norm(pulled, axis=1), np.linalg.norm(vectors, axis=1), rtol=1e-4)


def test_a_mean_similarity_is_found_for_many_vectors():
    """All pairs of 200,000 vectors, compared at each of 40 steps, would outlast the limit on a test's time."""
    vectors = np.random.default_rng(0).standard_normal((200_000, 8)).astype(np.float32)
    pulled = with_mean_similarity(vectors, 0.3)
    units = pulled / np.linalg.norm(pulled, axis=1, keepdims=True)
    total = units.sum(0, dtype=np.float64)
    assert (total @ total - len(units)) / (len(units) * (len(units) - 1)) == pytest.approx(0.3, abs=1e-4)


def test_mixup_keeps_norms_and_names_its_pairs(tmp_path):
    words = ["--method", "gaussian", "--count", 10, "--mixup", 30, "--mixup_range", 0.6, 0.9]
    sample(*words, "--output", tmp_path / "v.npy")
    vectors = np.load(tmp_path / "v.npy")
    mixed, labels = np.load(tmp_path / "v_mixup.npy"), np.load(tmp_path / "v_mixup_labels.npy")
    first, second, phi = labels[:, 0].astype(int), labels[:, 1].astype(int), labels[:, 2:]
    assert (first != second).all()
    assert (phi >= 0.6).all()
    assert (phi <= 0.9).all()
    expected = phi * vectors[first] + (1 - phi) * vectors[second]
    assert np.diag(cosines(mixed, expected)) == pytest.approx(1, abs=1e-5)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = phi * norms[first] + (1 - phi) * norms[second]
    assert np.allclose(np.linalg.norm(mixed, axis=1, keepdims=True), wanted, rtol=1e-4)
    assert np.array_equal(mix_pairs(vectors, 30, 0.6, 0.9, 0)[0], mixed)


def spoilt(value):
    features = np.random.default_rng(0).standard_normal((9, 512)).astype(np.float32)
    features[4] = value
    return features


@pytest.mark.parametrize(
    ("features", "more", "message"),
    [
        (spoilt(np.nan), [], "row 4 is NaN"),
        (spoilt(0), [], "row 4 is all zero"),
        (spoilt(1)[:1], [], "one person"),
        (spoilt(1), ["--max_similarity", 2], "a cosine lies between"),
        (spoilt(1), ["--average_similarity", -0.9], "can be given"),
        (spoilt(1), ["--mixup", 3, "--mixup_range", 0.9, 0.2], "the smaller first"),
        (spoilt(1), ["--count", 1], "at least two"),
        (spoilt(1), ["--output", "v.txt"], "name a .npy"),
        (None, [], "needs --features"),
    ],
)
def test_bad_input_is_refused(features, more, message, tmp_path, capsys):
    words = ["--count", 3, "--output", tmp_path / "v.npy", "--max_similarity", 0.9]
    if features is not None:
        np.save(tmp_path / "features.npy", features)
        words += ["--features", tmp_path / "features.npy"]
    with pytest.raises(SystemExit) as error:
        sample(*words, *more)
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "v.npy").exists()
