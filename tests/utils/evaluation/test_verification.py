"""The verification protocol, and verification sets in all their forms, hostile ones too."""

import json
import lzma
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import PHOTOS

from models.errors import UserError
from scripts import test_fr as tester
from utils.data.face_set import FaceSet
from utils.evaluation.verification import best_threshold, equal_error_rate, pair_similarities, verify
from utils.evaluation.verification_sets import PairSet, draw_pairs, find_set, load_pairs, save_pairs


@given(st.integers(0, 10_000), st.integers(2, 60))
def test_best_threshold_is_best(seed, count):
    rng = np.random.default_rng(seed)
    similarities, same = rng.integers(-3, 4, count) / 3, rng.random(count) < 0.5  # many equal values
    threshold, accuracy = best_threshold(similarities, same)
    assert ((similarities >= threshold) == same).mean() == pytest.approx(accuracy)
    tried = [*(similarities + 1e-9), *(similarities - 1e-9)]
    assert accuracy >= max(((similarities >= t) == same).mean() for t in tried) - 1e-12


def test_the_threshold_of_a_fold_comes_from_the_others():
    """A set whose folds disagree: each fold's own best threshold would give 1.0."""
    similarities = np.concatenate([np.tile([0.9, 0.6], 50), np.tile([0.4, 0.1], 50)])
    same = np.tile([True, False], 100)
    result = verify(similarities, same)
    assert result["accuracy"] < 0.9
    assert verify(np.tile([0.9, 0.1], 100), same)["accuracy"] == 1
    assert verify(np.tile([0.9, 0.1], 100), same)["tpr"] == {"0.0001": None, "0.001": None, "0.01": 1.0, "0.1": 1.0}


def test_the_equal_error_rate_is_that_of_a_known_case():
    assert equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 0
    assert equal_error_rate(np.array([0.9, 0.1]), np.array([0.8, 0.2])) == 0.5


def test_pairs_of_a_folder_are_right_and_reproducible():
    faces = FaceSet(PHOTOS)
    numbers, same = draw_pairs(faces, 12, 3)
    pairs = numbers.reshape(-1, 2)
    assert same.sum() == 6
    assert ((faces.labels[pairs[:, 0]] == faces.labels[pairs[:, 1]]) == same).all()
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == 12
    assert np.array_equal(numbers, draw_pairs(faces, 12, 3)[0])


def test_all_forms_of_a_set_give_the_same_figures(demo, tmp_path, capsys):
    faces = FaceSet(PHOTOS)
    numbers, same = draw_pairs(faces, 12, 0)
    encoded = [faces.read(i) for i in numbers]
    save_pairs(tmp_path / "a.npz", encoded, same)
    pickle.dump((encoded, same.tolist()), open(tmp_path / "b.bin", "wb"))  # noqa: SIM115
    with lzma.open(tmp_path / "c.xz", "wb") as file:
        pickle.dump(([np.frombuffer(data, np.uint8) for data in encoded], list(same)), file)
    images = np.stack([faces.image(i) for i in numbers])
    np.save(tmp_path / "d.npy", images)
    (tmp_path / "issame.txt").write_text("\n".join(map(str, same)))
    np.save(tmp_path / "e.npy", (images.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))
    (tmp_path / "e_issame.txt").write_text("\n".join(str(int(value)) for value in same))
    words = ["--weights", demo.encoder, "--data_dir", tmp_path, "--precision", "fp32", "--device", "cpu"]
    tester.main([str(w) for w in [*words, "--sets", *"abcde", "--output", tmp_path / "r.json"]])
    results = json.loads((tmp_path / "r.json").read_text())
    assert len(results) == 5
    assert all(result == results["a"] for result in results.values())
    assert "average" in capsys.readouterr().out


def test_an_old_pickle_with_byte_strings_is_read(tmp_path):
    """InsightFace's .bin were written by Python 2: the images are its strings."""
    data = (PHOTOS / "person1" / "0.jpg").read_bytes()
    string = b"T" + len(data).to_bytes(4, "little") + data  # BINSTRING, protocol 1
    old = b"(" + b"(" + string + string + string + string + b"l" + b"(I01\nI00\nl" + b"t."
    (tmp_path / "lfw.bin").write_bytes(old)
    pairs = load_pairs(tmp_path / "lfw.bin")
    assert pairs.same.tolist() == [True, False]
    assert pairs.numbers.tolist() == [0, 0, 0, 0]  # one photo, four times
    assert [photo.shape for photo in pairs.photos] == [(112, 112, 3)]


def test_a_photo_of_several_pairs_is_kept_once():
    faces = FaceSet(PHOTOS)
    numbers, same = draw_pairs(faces, 12, 0)
    pairs = PairSet("photos", map(faces.image, numbers), same)
    assert len(pairs.photos) == len(set(numbers)) < len(numbers)
    for number, place in zip(numbers, pairs.numbers, strict=True):
        assert np.array_equal(pairs.photos[place], faces.image(number))


def test_sets_are_found_by_name_by_file_name_and_in_a_folder_of_their_own(demo, tmp_path, capsys):
    """lfw.xz and syn.bin beside each other, and cfp_fp/cfp_fp.npy with issame.txt as FR-training code writes it."""
    faces = FaceSet(PHOTOS)
    numbers, same = draw_pairs(faces, 12, 0)
    encoded = [faces.read(i) for i in numbers]
    with lzma.open(tmp_path / "lfw.xz", "wb") as file:
        pickle.dump((encoded, same.tolist()), file)
    (tmp_path / "syn.bin").write_bytes(pickle.dumps((encoded, same.tolist())))
    (tmp_path / "cfp_fp").mkdir()
    images = np.stack([faces.image(i) for i in numbers]).transpose(0, 3, 1, 2)  # (2P, H, W, 3) -> (2P, 3, H, W)
    np.save(tmp_path / "cfp_fp" / "cfp_fp.npy", images)
    np.savetxt(tmp_path / "cfp_fp" / "issame.txt", same.astype(int), fmt="%s")
    words = ["--weights", demo.encoder, "--data_dir", tmp_path, "--precision", "fp32", "--device", "cpu"]
    words += ["--output", tmp_path / "r.json", "--sets", "lfw.xz", "syn", "cfp_fp"]
    tester.main([str(word) for word in words])
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["lfw"] == results["syn"] == results["cfp_fp"]
    assert find_set(tmp_path / "cfp_fp", "elsewhere") == tmp_path / "cfp_fp" / "cfp_fp.npy"
    with pytest.raises(UserError, match=r"no verification set called calfw .*calfw/calfw.npy"):
        find_set("calfw", tmp_path)


def test_labels_of_pairs_are_read_as_numpy_writes_them(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 112, 112, 3), np.uint8))
    np.savetxt(tmp_path / "issame.txt", [1, 0])  # 1.000000000000000000e+00
    assert load_pairs(tmp_path / "a.npy").same.tolist() == [True, False]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_encoded_images_of_any_kind_are_read(tmp_path, protocol):
    """Bytes, bytearrays, and the arrays that OpenCV's imencode gives today, (N,), and gave before, (N, 1)."""
    data = (PHOTOS / "person1" / "0.jpg").read_bytes()
    array = np.frombuffer(data, np.uint8)
    images = [data, bytearray(data), array, array[:, None]]
    (tmp_path / "x.bin").write_bytes(pickle.dumps((images, [True, False]), protocol))
    pairs = load_pairs(tmp_path / "x.bin")
    assert pairs.numbers.tolist() == [0, 0, 0, 0]  # one photo, four times
    assert np.array_equal(pairs.photos[0], FaceSet(PHOTOS).image(0))


class Vast:
    """Unpickled as it asks to be, a bytearray of a terabyte."""

    def __reduce__(self):
        return bytearray, (10**12,)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile_code_ran",)


def test_bad_verification_sets_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = (PHOTOS / "person1" / "0.jpg").read_bytes()
    cases = {
        "hostile.bin": (pickle.dumps(([data] * 4, [Hostile(), True])), "refused"),
        "vast.bin": (pickle.dumps(([data] * 4, [Vast(), True])), "refused.*bytearray"),
        "odd.bin": (pickle.dumps(([data] * 3, [True, False])), "3 images for 2 pairs"),
        "one_kind.bin": (pickle.dumps(([data] * 4, [True, True])), "pairs of one identity and pairs of two"),
        "truncated.bin": (pickle.dumps(([data] * 4, [True, False]))[:-500], "truncated|damaged"),
        "broken.bin": (pickle.dumps(([data[:900]] * 4, [True, False])), "truncated JPEG"),
        "noise.xz": (b"nothing", "damaged"),
        "noise.npz": (b"nothing", "damaged"),
        "other.txt": (b"", "ends in"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_pairs(tmp_path / name)
    assert not (tmp_path / "hostile_code_ran").exists()
    np.save(tmp_path / "alone.npy", np.zeros((4, 112, 112, 3), np.uint8))
    with pytest.raises(UserError, match=r"needs issame.txt"):
        load_pairs(tmp_path / "alone.npy")
    (tmp_path / "issame.txt").write_text("True\nmaybe\n")
    with pytest.raises(UserError, match="not 'maybe'"):
        load_pairs(tmp_path / "alone.npy")


def test_features_of_demo_people_verify(encoder):
    from utils.evaluation.verification import features_of

    faces = FaceSet(PHOTOS)
    numbers, same = draw_pairs(faces, 16, 0)
    features = features_of(encoder, [faces.image(i) for i in numbers])
    assert verify(pair_similarities(features), same)["accuracy"] > 0.9
