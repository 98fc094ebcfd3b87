"""Identity vectors from files and from photos: names, slices and errors."""

from pathlib import Path

import numpy as np
import pytest
from paths import PHOTOS

from models.errors import UserError
from utils.data.slices import parse_slice
from utils.generation.photo_source import PhotoSource, photo_names
from utils.generation.vector_source import VectorSource, load_vectors


@pytest.mark.parametrize(
    ("text", "expected"), [("0:10", range(10)), ("3:4", range(3, 4)), (":2", range(2)), (None, range(20))]
)
def test_slices_are_parsed(text, expected):
    assert parse_slice(text, 20) == expected


@pytest.mark.parametrize("text", ["", "5", "a:b", "1:2:3", "4:2", "3:3", "-2:3", "0:21", "1.5:2"])
def test_malformed_slices_are_refused(text):
    with pytest.raises(UserError, match="--start_end"):
        parse_slice(text, 20)


def test_names_and_numbers_are_global(demo):
    source = VectorSource(demo.vectors, "7:9", start_class_id=100)
    identities = list(source.identities(source.slice))
    assert [identity.name for identity in identities] == ["000107", "000108"]
    assert [identity.number for identity in identities] == [107, 108]
    assert np.array_equal(identities[0].vector, np.load(demo.vectors)[7])


def test_normalised_vectors_are_warned_about(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    assert "norm 1.00" in VectorSource(tmp_path / "v.npy").warnings[0]
    np.save(tmp_path / "v.npy", vectors)
    assert not VectorSource(tmp_path / "v.npy").warnings
    assert "trained on norms about 5.0" in VectorSource(tmp_path / "v.npy", usual_norm=5.0).warnings[0]
    assert not VectorSource(tmp_path / "v.npy", usual_norm=20.0).warnings


def spoilt(row_value):
    array = np.ones((5, 512), np.float32)
    array[3] = row_value
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(512, np.float32), "shape"),
        (np.ones((2, 3, 512), np.float32), "shape"),
        (np.ones((2, 511), np.float32), "shape"),
        (np.ones((0, 512), np.float32), "shape"),
        (np.ones((2, 512), np.int32), "int32"),
        (np.array([{"a": 1}], dtype=object), "Python objects"),
        (spoilt(np.nan), "row 3 is NaN"),
        (spoilt(np.inf), "row 3 is NaN or infinite"),
        (spoilt(0), "row 3 is all zero"),
    ],
)
def test_bad_vectors_are_refused_by_row(array, message, tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(UserError, match=message) as error:
        load_vectors(path, 512)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_vector_files_are_refused(tmp_path, demo):
    path = tmp_path / "v.npy"
    with pytest.raises(UserError, match="no such file"):
        load_vectors(path, 512)
    for data in (b"", b"hello", Path(demo.vectors).read_bytes()[:1000]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"truncated|not an \.npy"):
            load_vectors(path, 512)
    np.savez(tmp_path / "v.npz", a=np.ones((2, 512)))
    with pytest.raises(UserError, match="archive"):
        load_vectors(tmp_path / "v.npz", 512)


def test_half_precision_vectors_are_fine(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((2, 512), np.float16))
    (first, _) = VectorSource(tmp_path / "v.npy").identities(range(2))
    assert first.vector.dtype == np.float32


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.jpg", "a/y.jpg"], ["x", "y"]),
        (["a/x.jpg", "b/x.jpg", "b/y.jpg"], ["a_x", "b_x", "y"]),
        (["p/a/x.jpg", "q/a/x.jpg"], ["p_a_x", "q_a_x"]),
        (["a/x.jpg", "a/x.png"], ["a_x", "a_x_"]),
    ],
)
def test_identities_are_named_after_their_photos(paths, names):
    assert photo_names([Path(path) for path in paths]) == names


def test_features_of_photos_do_not_depend_on_the_rest(encoder, tmp_path):
    source = PhotoSource(PHOTOS, encoder, batch_size=4)
    everything = {identity.name: identity.vector for identity in source.identities(source.slice)}
    assert len(everything) == 9
    some = list(source.identities([2, 7]))
    for identity in some:
        assert np.array_equal(identity.vector, everything[identity.name])
    person = [name for name in everything if name.startswith("person1")]
    a, b = (everything[name] / np.linalg.norm(everything[name]) for name in person[:2])
    assert a @ b > 0.4  # two photos of one rendered person


def test_damaged_photos_are_skipped_and_listed(encoder, tmp_path):
    good = (PHOTOS / "person1" / "0.jpg").read_bytes()
    (tmp_path / "good.jpg").write_bytes(good)
    (tmp_path / "torn.jpg").write_bytes(good[:800])
    (tmp_path / "text.png").write_text("hello")
    source = PhotoSource(tmp_path, encoder)
    assert [identity.name for identity in source.identities(source.slice)] == ["good"]
    assert sorted(Path(line.split(":")[0]).name for line in source.skipped) == ["text.png", "torn.jpg"]
