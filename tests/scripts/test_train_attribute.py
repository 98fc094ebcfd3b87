"""Training an estimator of attributes from a table of photos."""

import csv
import json

import numpy as np
import pytest
from commands import refused, run
from paths import Demo

from models.attribute_estimator import load_attribute_estimator
from scripts import train_attribute
from utils.data.attribute_table import labelled_photos
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet


def flags(rendered, tmp_path, *more):
    return ["--data", rendered, "--id_weights", Demo.encoder, "--device", "cpu", "--output", tmp_path / "a.pth",
            "--epochs", 20, *more]  # fmt: skip


def test_an_estimator_learns_columns_and_its_file_holds_names_units_ranges_and_held_out_errors(
    rendered, encoder, tmp_path, capsys
):
    labels = ["--labels", "smile=mouthSmileLeft", "age", "light_azimuth", "--units", "age=years"]
    run(train_attribute.main, *flags(rendered, tmp_path, *labels))
    estimator = load_attribute_estimator(tmp_path / "a.pth", encoder, Demo.encoder)
    smile, age, light = estimator.attributes
    assert [(a.name, a.unit) for a in (smile, age, light)] == [("smile", ""), ("age", "years"), ("light_azimuth", "")]
    faces = FaceSet(rendered)
    trained = [label for label, person in zip(load_labels(faces), faces.labels, strict=True) if person % 10]
    ages = [label["age"] for label in trained]
    assert (age.lowest, age.highest) == (min(ages), max(ages))
    assert smile.lowest == 0
    images = np.stack([faces.image(index) for index in np.flatnonzero(faces.labels)])
    learned = train_attribute.features_of(estimator, images, flip=False)[:, 1]
    assert np.corrcoef(learned, ages)[0, 1] > 0.8
    printed = capsys.readouterr().out
    assert f"held-out error {age.error:.3g} years (the mean: " in printed
    assert "trained on 48 photos, tested on 12" in printed
    assert (tmp_path / "a.pth").stat().st_size < 1.5e6
    assert "exists already" in refused(train_attribute.main, flags(rendered, tmp_path, *labels), capsys)


def test_a_csv_table_gives_the_same_values_and_leaves_out_photos_without_one(rendered, tmp_path):
    lines = [json.loads(line) for line in (rendered / "labels.jsonl").read_text().splitlines()]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "yaw", "glasses"])
        writer.writerows([line["file"], "" if number < 3 else line["yaw"], line["glasses"]] for number, line in
                         enumerate(lines[:50]))  # fmt: skip
    faces = FaceSet(rendered)
    indices, values = labelled_photos(faces, ["yaw", "glasses"], tmp_path / "t.csv")
    all_indices, all_values = labelled_photos(faces, ["yaw", "glasses"])
    assert (len(all_indices), len(indices)) == (60, 47)
    assert np.allclose(values, all_values[indices])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--labels", "beard"], "no column beard; it has file, identity, yaw"),
        (["--labels", "hair"], "which is not a number"),
        (["--labels", "yaw"], "call it otherwise: NAME=yaw"),
        (["--labels", "age", "age=skin"], "age: given twice"),
        (["--labels", "age", "--units", "years"], "must be NAME=..."),
        (["--labels", "age", "--units", "skin=1"], "no such attribute"),
        (["--labels", "age", "--table", "nowhere.csv"], "nowhere.csv: not a readable table"),
        (["--labels", "age", "--data", "tests/photos"], "no labels of these photos"),
    ],
)
def test_bad_input_is_refused_in_a_line(rendered, more, message, tmp_path, capsys):
    assert message in refused(train_attribute.main, flags(rendered, tmp_path, *more), capsys)
    assert not (tmp_path / "a.pth").exists()


def test_a_table_of_other_photos_and_one_without_variety_are_refused(rendered, tmp_path, capsys):
    lines = [json.loads(line) for line in (rendered / "labels.jsonl").read_text().splitlines()]
    (tmp_path / "other.jsonl").write_text(
        "".join(json.dumps({"file": f"x/{k}.jpg", "age": k}) + "\n" for k in range(9))
    )
    (tmp_path / "same.jsonl").write_text("".join(json.dumps({"file": x["file"], "age": 1}) + "\n" for x in lines))
    for table, message in (("other", "names no photo of"), ("same", "age: has the same value in all photos")):
        words = flags(rendered, tmp_path, "--labels", "age", "--table", tmp_path / f"{table}.jsonl")
        assert message in refused(train_attribute.main, words, capsys)
