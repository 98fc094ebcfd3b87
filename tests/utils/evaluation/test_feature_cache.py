"""Features of a dataset are kept on disk: used again after a kill, and only for the same photos and precision."""

import shutil

import numpy as np
from paths import PHOTOS

from utils.data.face_set import FaceSet
from utils.evaluation import metrics as metrics


def test_features_go_on_after_a_kill(demo, encoder, tmp_path):
    from utils.evaluation.feature_cache import FeatureCache

    faces = FaceSet(PHOTOS)
    whole = FeatureCache(tmp_path / "whole", faces, encoder, "hash", "fp32")
    features = whole.fill(4).values
    assert features.dtype == np.float32
    part = FeatureCache(tmp_path / "part", faces, encoder, "hash", "fp32")
    part.array[:4], part.done = whole.array[:4], 4
    part._save()
    part.array[4:] = 7  # written and not saved
    again = FeatureCache(tmp_path / "part", faces, encoder, "hash", "fp32")
    assert again.done == 4
    assert np.array_equal(again.fill(4).values, features)
    assert FeatureCache(tmp_path / "part", faces, encoder, "another encoder", "fp32").done == 0


def test_features_of_other_photos_or_precision_are_not_used_again(encoder, tmp_path):
    from utils.evaluation.feature_cache import FeatureCache

    def done(faces, precision="fp32"):
        """How many images are there before any work; then all are."""
        cache = FeatureCache(tmp_path / "cache", faces, encoder, "hash", precision)
        before = cache.done
        cache.fill(9)
        return before

    shutil.copytree(PHOTOS, tmp_path / "photos")
    assert (done(FaceSet(tmp_path / "photos")), done(FaceSet(tmp_path / "photos"))) == (0, 9)
    assert done(FaceSet(tmp_path / "photos"), "bf16") == 0
    assert done(FaceSet(tmp_path / "photos")) == 0

    for name, middle in (("one", 3), ("two", 4)):  # as many, and the same first and last one
        np.save(tmp_path / f"{name}.npy", np.array([0, middle, 8]))
    assert done(FaceSet(tmp_path / "photos", tmp_path / "one.npy")) == 0
    assert done(FaceSet(tmp_path / "photos", tmp_path / "two.npy")) == 0
    assert done(FaceSet(tmp_path / "photos", tmp_path / "two.npy")) == 3

    assert done(FaceSet(tmp_path / "photos")) == 0
    shutil.copy(PHOTOS / "person4" / "0.jpg", tmp_path / "photos" / "person3" / "1.jpg")  # the dataset was made anew
    assert done(FaceSet(tmp_path / "photos")) == 0


def test_a_kill_while_other_photos_are_measured_does_not_leave_their_features(encoder, tmp_path):
    from utils.evaluation.feature_cache import FeatureCache

    np.save(tmp_path / "mask.npy", np.array([8, 7, 6, 5, 4, 3, 2, 1, 0]))
    forward, backward = FaceSet(PHOTOS), FaceSet(PHOTOS, tmp_path / "mask.npy")
    FeatureCache(tmp_path / "cache", forward, encoder, "hash", "fp32").fill(9)
    FeatureCache(tmp_path / "cache", backward, encoder, "hash", "fp32")  # killed before it saved anything
    assert FeatureCache(tmp_path / "cache", forward, encoder, "hash", "fp32").done == 0
