"""A dataset with known faults is cleaned: mask, list, picture, and the cleaned dataset."""

import json
import shutil

import cv2
import numpy as np
import pytest
from commands import refused, run
from generation_runs import make_dataset
from paths import files_of

from scripts import clean_dataset
from utils.data.face_set import FaceSet
from utils.data.images import decode_image, encode_jpeg, read_image


@pytest.fixture(scope="module")
def faulty(demo, tmp_path_factory):
    """Four identities of six images with: a stranger, one person under two names, an image twice, a torn file.

    ``single`` has one image, which is that of a person to avoid; the vectors of these are in real.npy.
    """
    folder = tmp_path_factory.mktemp("faulty")
    make_dataset(demo, folder, "--skip_attrop", "--sigma", 0.3, people=5, example=6, name="people")
    people = folder / "people"
    shutil.rmtree(folder / "people.about")
    shutil.copy(people / "000001" / "005.jpg", people / "000000" / "stranger.jpg")
    (people / "000002_again").mkdir()
    for name in ("004.jpg", "005.jpg"):
        (people / "000002" / name).rename(people / "000002_again" / name)
    again = cv2.convertScaleAbs(read_image(people / "000003" / "000.jpg"), alpha=1.0, beta=1)
    (people / "000003" / "twice.jpg").write_bytes(encode_jpeg(again, 60))
    (people / "000003" / "torn.jpg").write_bytes((people / "000003" / "000.jpg").read_bytes()[:300])
    for number in range(1, 6):
        (people / "000004" / f"00{number}.jpg").unlink()
    (people / "000004").rename(people / "single")
    np.save(folder / "real.npy", np.load(demo.vectors)[[150, 4]])
    return folder


def words(demo, folder, *more):
    flags = ["--id_weights", demo.encoder, "--same_similarity", 0.5, "--avoid", folder / "real.npy"]
    return [folder / "people", *flags, "--device", "cpu", *more]


def left_out(folder):
    return {line["image"]: line for line in map(json.loads, (folder / "left_out.jsonl").read_text().splitlines())}


def test_each_fault_is_found_and_the_cleaned_dataset_has_none(demo, faulty, tmp_path, capsys):
    before = files_of(faulty / "people")
    run(clean_dataset.main, *words(demo, faulty, "--cleaned", tmp_path / "clean"))
    out = capsys.readouterr().out
    assert files_of(faulty / "people") == before, "the dataset is only read"
    output = faulty / "people.cleaning"
    lines = left_out(output)
    assert {image: line["reason"] for image, line in lines.items()} == {
        "000000/stranger.jpg": "outlier",
        "000002_again/004.jpg": "duplicate identity",
        "000002_again/005.jpg": "duplicate identity",
        "000003/torn.jpg": "unreadable",
        "000003/twice.jpg": "near-duplicate",
        "single/000.jpg": "leak",
    }
    assert lines["000002_again/004.jpg"]["united_with"] == "000002"
    assert lines["000003/twice.jpg"]["same_as"] == "000003/000.jpg"
    assert lines["single/000.jpg"]["row_of_avoid"] == 1
    assert "22 of 28 images of 4 of 6 identities stay" in out
    masked = FaceSet(faulty / "people", output / "mask.npy")
    assert len(masked) == 22
    assert not {masked.location(row) for row in range(22)} & lines.keys()
    clean = FaceSet(tmp_path / "clean")
    assert np.bincount(clean.labels).tolist() == [6, 6, 6, 6]
    united = {clean.read(row) for row in np.flatnonzero(clean.labels == 2)}
    assert before["000002_again/004.jpg"] in united
    picture = decode_image((output / "left_out.jpg").read_bytes())
    assert picture.shape[0] == 24 + 4 * 112, "a line for the labels, and a row for each of four reasons"


def test_an_lmdb_and_a_mask_are_cleaned_too_and_features_are_used_again(demo, faulty, tmp_path, capsys):
    run(clean_dataset.main, *words(demo, faulty, "--output", tmp_path / "one", "--cleaned", tmp_path / "clean.lmdb"))
    flags = ["--id_weights", demo.encoder, "--same_similarity", 0.5, "--cluster", "dbscan"]
    run(clean_dataset.main, tmp_path / "clean.lmdb", *flags)
    assert "24 of 24 images of 4 of 4 identities stay" in capsys.readouterr().out
    output = tmp_path / "clean.cleaning"
    assert np.load(output / "mask.npy").tolist() == list(range(24))
    assert not (output / "left_out.jpg").exists()
    assert "give --overwrite" in refused(clean_dataset.main, [tmp_path / "clean.lmdb", *flags], capsys)
    changed = (output / "features.npy").stat().st_mtime_ns
    run(clean_dataset.main, tmp_path / "clean.lmdb", *flags, "--overwrite", "--min_images", 6)
    assert (output / "features.npy").stat().st_mtime_ns == changed
    masked = [*words(demo, faulty), "--mask", tmp_path / "one" / "mask.npy", "--output", tmp_path / "two"]
    run(clean_dataset.main, *masked)
    assert (tmp_path / "two" / "left_out.jsonl").read_text() == ""
    first, second = (np.load(tmp_path / name / "mask.npy").tolist() for name in ("one", "two"))
    assert first == second, "positions in the whole dataset"


def test_one_identity_with_one_image_stays(demo, faulty, tmp_path, capsys):
    (tmp_path / "one" / "single").mkdir(parents=True)
    shutil.copy(faulty / "people" / "single" / "000.jpg", tmp_path / "one" / "single")
    run(clean_dataset.main, tmp_path / "one", "--id_weights", demo.encoder)
    assert "1 of 1 images of 1 of 1 identities stay" in capsys.readouterr().out
    assert np.load(tmp_path / "one.cleaning" / "mask.npy").tolist() == [0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--same_similarity", 2], "between -1 and 1"),
        (["--min_images", 0], "at least 1"),
        (["--min_images", 50], "nothing is left of it"),
        (["--avoid", "nowhere.npy"], "nowhere.npy: no such file"),
        (["--mask", "nowhere.npy"], "not a mask"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(demo, faulty, tmp_path, flags, message, capsys):
    line = refused(clean_dataset.main, words(demo, faulty, "--output", tmp_path / "out", *flags), capsys)
    assert message in line
    assert not (tmp_path / "out" / "mask.npy").exists()


def test_vectors_to_avoid_that_are_zero_and_an_output_inside_the_dataset_are_refused(demo, faulty, tmp_path, capsys):
    np.save(tmp_path / "zeros.npy", np.zeros((3, 512), np.float32))
    line = refused(
        clean_dataset.main, words(demo, faulty, "--output", tmp_path / "out", "--avoid", tmp_path / "zeros.npy"), capsys
    )
    assert "zeros.npy: row 0 is all zero" in line
    line = refused(clean_dataset.main, words(demo, faulty, "--output", faulty / "people" / "x"), capsys)
    assert "lies inside the dataset" in line
