"""The scripts around training sets, on the nine photos in tests/photos."""

import json
import subprocess
import sys

import msgpack
import numpy as np
import pytest
from conftest import PHOTOS, ROOT
from test_training_data import content, training_lmdb, write_lmdb  # noqa: F401, a fixture

from scripts import (
    attribute_sheet,
    center_features,
    convert_weights,
    evaluate_generator,
    extract_features,
    identity_label_collection,
    inspect_dataset,
)
from world import quality_curve


def run(main, *words):
    main([str(word) for word in words])


def test_features_then_centres_ordered_by_name(demo, tmp_path):
    extract = ["--images", PHOTOS, "--encoder", demo.encoder, "--precision", "fp32", "-d"]
    run(extract_features.main, *extract, tmp_path / "each")
    run(extract_features.main, *extract, tmp_path / "one", "--one_file")
    rows = np.load(tmp_path / "one" / "features.npy")
    names = (tmp_path / "one" / "features.txt").read_text().splitlines()
    assert rows.shape == (9, 512)
    assert names == sorted(map(str, PHOTOS.rglob("*.jpg")))
    assert np.array_equal(np.load(tmp_path / "each" / "person3" / "1.npy"), rows[4])

    run(center_features.main, "-feat", tmp_path / "each", "-dataset", "demo", "-dest", tmp_path, "-n", 4)
    centres = np.load(tmp_path / "demo_center_feature.npy")
    assert np.allclose(centres, rows.reshape(3, 3, 512).mean(1), atol=1e-5)
    assert (tmp_path / "demo_center_feature.txt").read_text().split() == ["person1", "person3", "person4"]


def test_centres_of_bad_features(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "0.npy", np.full(512, np.nan))
    with pytest.raises(SystemExit):
        run(center_features.main, "-feat", tmp_path, "-dataset", "x", "-dest", tmp_path)
    assert "0.npy: has NaN" in capsys.readouterr().err
    assert not (tmp_path / "x_center_feature.npy").exists()


def test_labels(tmp_path):
    run(identity_label_collection.main, "-im", PHOTOS, "-d", tmp_path, "-n", "demo")
    assert (tmp_path / "demo_labels.txt").read_text().split() == list("000111222")


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as error:
        run(identity_label_collection.main, "-im", PHOTOS, "-d", tmp_path / "file", "-n", "demo")
    assert error.value.code == 2
    assert "demo_labels.txt: cannot write" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_inspect_lists_broken_records(training_lmdb, tmp_path, capsys):  # noqa: F811
    run(inspect_dataset.main, training_lmdb, "--sheet", tmp_path / "sheet.jpg")
    out = capsys.readouterr().out
    assert "9 records, 3 identities" in out
    assert "photos per identity: 3 to 3" in out
    assert "0 broken records" in out
    assert (tmp_path / "sheet.jpg").exists()
    before = (tmp_path / "sheet.jpg").read_bytes()
    with pytest.raises(SystemExit):
        run(inspect_dataset.main, training_lmdb, "--sheet", tmp_path / "sheet.jpg")
    assert "sheet.jpg: exists already; give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "sheet.jpg").read_bytes() == before
    run(inspect_dataset.main, training_lmdb)
    beside = training_lmdb.with_name(training_lmdb.name.removesuffix(".lmdb") + ".report")
    assert (beside / "contact_sheet.jpg").read_bytes() == before

    records = content(training_lmdb)
    image, feature, _ = msgpack.unpackb(records[b"1"])
    records[b"1"] = msgpack.packb((image, feature, 7))
    records[b"2"] = msgpack.packb((image[:900], feature, 0))
    path = write_lmdb(tmp_path / "x.lmdb", records)
    with pytest.raises(SystemExit) as error:
        run(inspect_dataset.main, path, "--sheet", tmp_path / "sheet.jpg", "--overwrite")
    assert error.value.code == 1
    out = capsys.readouterr().out
    assert "broken record 1: label 7, there are 3 identities" in out
    assert "broken record 2: truncated JPEG" in out


def test_a_truncated_lmdb_is_an_error_and_not_the_end_of_the_process(training_lmdb, tmp_path):  # noqa: F811
    """Reading a page that is not there would be a bus error, so another process has to try."""
    cut = tmp_path / "cut.lmdb"
    cut.write_bytes(training_lmdb.read_bytes()[: 5 * 4096])
    for script, *words in (
        ("inspect_dataset.py", cut), ("convert_dataset.py", cut, tmp_path / "folder"), ("measure_dataset.py", cut),
    ):  # fmt: skip
        command = [sys.executable, ROOT / "scripts" / script, *words]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert "cut.lmdb: truncated, it has 20480 bytes and needs" in result.stderr


def test_evaluate(demo, training_lmdb, tmp_path):  # noqa: F811
    words = ["--model_weights", demo.generator, "--id_weights", demo.encoder, "--output", tmp_path / "e"]
    run(evaluate_generator.main, "--data", training_lmdb, *words, "--precision", "fp32")
    scores = json.loads((tmp_path / "e.json").read_text())
    assert scores["photos"] == 9
    assert scores["psnr"] > 10
    assert scores["id_similarity_mean"] > 0.6
    assert (tmp_path / "e.jpg").exists()


@pytest.mark.parametrize(
    ("script", "ending", "words"),
    [
        (attribute_sheet, ".jpg", ["--output"]),
        (attribute_sheet, ".json", ["--output"]),
        (evaluate_generator, ".json", ["--data", "x", "--model_weights", "x", "--id_weights", "x", "--output"]),
        (evaluate_generator, ".jpg", ["--data", "x", "--model_weights", "x", "--id_weights", "x", "--output"]),
        (quality_curve, ".json", ["--photos", "x", "--output"]),
        (quality_curve, ".png", ["--photos", "x", "--output"]),
        (convert_weights, "", ["--to", "own", ROOT / "weights" / "demo" / "vec2face_generator.pth"]),
    ],
)
def test_results_that_exist_are_refused_before_any_work(script, ending, words, tmp_path, capsys):
    path = tmp_path / f"x{ending}"
    path.write_text("of an hour's work")
    with pytest.raises(SystemExit):
        run(script.main, *words, tmp_path / "x")
    assert (
        capsys.readouterr().err
        == f"error: {path}: exists already; give --overwrite to replace it, or name another file.\n"
    )
    assert path.read_text() == "of an hour's work"


def test_results_are_replaced_when_asked(demo, training_lmdb, tmp_path):  # noqa: F811
    for path in (tmp_path / "e.json", tmp_path / "e.jpg", tmp_path / "own.pth"):
        path.write_text("old")
    run(convert_weights.main, demo.generator, tmp_path / "own.pth", "--to", "own", "--overwrite")
    run(
        evaluate_generator.main, "--data", training_lmdb, "--model_weights", tmp_path / "own.pth", "--id_weights",
        demo.encoder, "--count", 2, "--output", tmp_path / "e", "--overwrite",
    )  # fmt: skip
    assert json.loads((tmp_path / "e.json").read_text())["photos"] == 2
    assert (tmp_path / "e.jpg").read_bytes()[:2] == b"\xff\xd8"
