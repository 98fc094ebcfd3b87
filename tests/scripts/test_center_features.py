"""Features of photos, and the mean feature of each identity."""

import numpy as np
import pytest
from commands import run
from paths import PHOTOS, files_of

from scripts import (
    center_features,
    extract_features,
)


def test_features_are_in_the_order_of_the_photos_and_centres_are_their_means(demo, tmp_path):
    extract = ["--images", PHOTOS, "--encoder", demo.encoder, "--precision", "fp32", "-d"]
    run(extract_features.main, *extract, tmp_path / "each")
    run(extract_features.main, *extract, tmp_path / "one", "--one_file")
    before = files_of(tmp_path / "each")
    with pytest.raises(SystemExit):
        run(extract_features.main, *extract, tmp_path / "each")
    assert files_of(tmp_path / "each") == before
    run(extract_features.main, *extract, tmp_path / "each", "--overwrite")
    rows = np.load(tmp_path / "one" / "features.npy")
    names = (tmp_path / "one" / "features.txt").read_text().splitlines()
    assert rows.shape == (9, 512)
    assert names == sorted(map(str, PHOTOS.rglob("*.jpg")))
    assert np.array_equal(np.load(tmp_path / "each" / "person3" / "1.npy"), rows[4])

    run(center_features.main, "-feat", tmp_path / "each", "-dataset", "demo", "-dest", tmp_path, "-n", 4)
    centres = np.load(tmp_path / "demo_center_feature.npy")
    assert np.allclose(centres, rows.reshape(3, 3, 512).mean(1), atol=1e-5)
    assert (tmp_path / "demo_center_feature.txt").read_text().split() == ["person1", "person3", "person4"]


def test_features_with_nan_are_refused_by_file_and_no_centre_is_written(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "0.npy", np.full(512, np.nan))
    with pytest.raises(SystemExit):
        run(center_features.main, "-feat", tmp_path, "-dataset", "x", "-dest", tmp_path)
    assert "0.npy: has NaN" in capsys.readouterr().err
    assert not (tmp_path / "x_center_feature.npy").exists()
