"""--attribute of the generation scripts: AttrOP aims at the values, and the manifest has those of each image."""

import json

import pytest
from adapters import write_adapter
from attributes import write_estimator
from commands import refused, run
from generation_runs import command, manifest, reference_flags
from paths import DEMO, PHOTOS, Demo
from second_encoder import write_second_encoder

import image_generation
import image_generation_with_reference
import pose_image_generation
from scripts import attribute_sheet
from utils.dataset.layout import settings_path

WEIGHTS = ("--attribute_weights", DEMO / "attributes.pth")
SMALL = ("--start_end", "0:2", "--max_iters", 2, "--image_quality", 15)


def settings(dataset):
    return json.loads(settings_path(dataset).read_text())["settings"]


def test_each_image_has_its_values_in_the_manifest_and_the_wanted_ones_are_settings(demo, tmp_path, capsys):
    words = [
        *command(demo),
        *SMALL,
        "--output_dir",
        tmp_path,
        "--attribute",
        "smile=0.7+-0.05",
        "--attribute",
        "blur=0",
    ]
    run(image_generation.main, *words)
    lines = manifest(tmp_path / "test")
    assert all({"smile", "blur"} <= line.keys() for line in lines)
    assert lines[0]["smile"] != lines[1]["smile"]
    assert {"id_similarity", "quality", "smile", "blur"} <= lines[0]["attrop"].keys()
    assert settings(tmp_path / "test")["attrop"]["attributes"] == ["smile=0.7±0.05", "blur=0.0"]
    assert len(settings(tmp_path / "test")["attribute_model"]) == 64
    assert "smile" in capsys.readouterr().out
    words = [*words[:-1], "blur=1"]
    assert "attributes is " in refused(image_generation.main, words, capsys)


@pytest.mark.slow
def test_a_longer_attrop_comes_nearer_to_the_attribute(demo, tmp_path):
    values = {}
    for iterations in (1, 6):
        words = ["--max_iters", iterations, "--example", 1, "--output_dir", tmp_path / str(iterations)]
        run(image_generation.main, *command(demo), *SMALL, *words, "--attribute", "light_azimuth=80±1")
        lines = manifest(tmp_path / str(iterations) / "test")
        values[iterations] = sum(line["attrop"]["light_azimuth"] for line in lines) / len(lines)
    assert abs(80 - values[6]) < abs(80 - values[1]) - 5


def test_the_vectors_of_photos_get_attributes_and_quality_by_attrop(demo, tmp_path):
    words = reference_flags(demo, PHOTOS / "person1", tmp_path)
    quality = ["--image_quality", 15, "--quality_weights", demo.encoder]
    run(image_generation_with_reference.main, *words, "--max_iters", 2, "--attribute", "smile=0.7", *quality)
    lines, attrop = manifest(tmp_path / "o" / "r"), settings(tmp_path / "o" / "r")["attrop"]
    assert all({"smile", "quality"} <= line["attrop"].keys() and "smile" in line for line in lines)
    assert attrop == {"image_quality": 15, "max_iters": 2, "attributes": ["smile=0.7"]}


def test_in_pose_mode_the_written_image_is_the_one_with_the_measured_attribute(demo, tmp_path):
    words = [*command(demo, example=1), *SMALL, "--pose_weights", demo.pose, "--pose", 10, "--output_dir", tmp_path]
    run(pose_image_generation.main, *words, "--attribute", "glasses=1")
    lines = manifest(tmp_path / "test-10")
    assert all({"yaw", "glasses"} <= line.keys() and line["attrop"]["measured_on"] == "image" for line in lines)


def test_with_landmark_control_the_identity_vector_gets_the_attribute_first(demo, tmp_path):
    adapter = write_adapter(tmp_path / "adapter.pth")
    words = [*demo.models, "--control", "landmarks", "--landmark_adapter", adapter, "--center_feature", demo.vectors]
    words += ["--start_end", "0:1", "--example", 2, "--name", "test", "--max_iters", 1, "--pose", 0]
    run(pose_image_generation.main, *words, "--output_dir", tmp_path, "--attribute", "age=30")
    first, second = manifest(tmp_path / "test-0")
    assert first["attrop"]["measured_on"] == "check image"
    assert {"id_similarity", "age"} <= first["attrop"].keys()
    assert "age" in first
    assert "age" in second


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attribute", "beard=1"], "beard: the attribute estimator does not know it; it knows light_azimuth,"),
        (["--attribute", "light_azimuth=170"], "light_azimuth 170: the estimator has seen values from -100 to 100 deg"),
        (["--attribute", "smile"], "must be NAME=VALUE or NAME=VALUE±TOLERANCE"),
        (["--attribute", "smile=much"], "must be NAME=VALUE or NAME=VALUE±TOLERANCE"),
        (["--attribute", "smile=0.5±0"], "the tolerance must be above 0"),
        (["--attribute", "smile=0.5", "--attribute", "smile=0.6"], "smile: given twice"),
        (["--attribute", "smile=0.5", "--skip_attrop"], "leave --skip_attrop out"),
        (["--attribute_weights", "a.pth"], "nothing uses it"),
        (["--attribute", "smile=0.5", "--attribute_weights", "nowhere.pth"], "nowhere.pth: no such weight file"),
        (["--attribute", "smile=0.5", "--attribute_weights", Demo.pose], "not an attribute estimator"),
    ],
)
def test_bad_attributes_are_refused_before_anything_is_written(demo, flags, message, tmp_path, capsys):
    line = refused(image_generation.main, [*command(demo), "--output_dir", tmp_path / "out", *flags], capsys)
    assert message in line
    assert not (tmp_path / "out").exists()


def test_an_estimator_of_another_encoder_is_refused(demo, tmp_path, capsys):
    path = write_estimator(tmp_path / "a.pth", write_second_encoder(tmp_path / "other.pth"))
    flags = ["--attribute", "smile=0.5", "--attribute_weights", path, "--output_dir", tmp_path / "out"]
    assert "another face encoder" in refused(image_generation.main, [*command(demo), *flags], capsys)


def test_a_sheet_shows_an_attribute_of_the_estimator(demo, tmp_path, capsys):
    words = ["--attribute", "smile", "--count", 2, "--max_iters", 2, *demo.models, *WEIGHTS]
    words += ["--center_feature", demo.vectors, "--output", tmp_path / "s"]
    run(attribute_sheet.main, *words, "--values", "0", "0.8")
    figures = json.loads((tmp_path / "s.json").read_text())
    assert {"0", "0.8"} <= figures.keys()
    assert "smile within 0.127, id similarity of at least 0.7" in capsys.readouterr().out
    words[1] = "beard"
    assert "it knows light_azimuth" in refused(attribute_sheet.main, [*words, "--overwrite"], capsys)
    words[1] = "smile"
    assert "seen values from 0 to 0.899" in refused(attribute_sheet.main, [*words, "--overwrite"], capsys)


def test_a_sheet_has_columns_of_several_attributes(demo, tmp_path, capsys):
    words = ["--count", 2, "--max_iters", 1, *demo.models, *WEIGHTS, "--pose_weights", demo.pose]
    words += ["--center_feature", demo.vectors, "--output", tmp_path / "s"]
    words += ["--attribute", "yaw", "--values", "-45", "45", "--attribute", "smile"]
    assert "--attribute is given 2 times and --values 1 times" in refused(attribute_sheet.main, words, capsys)
    assert "--attribute yaw --values 45: given twice" in (
        refused(attribute_sheet.main, [*words, "--values", "0", "--attribute", "yaw", "--values", "45"], capsys)
    )
    run(attribute_sheet.main, *words, "--values", "0.8")
    figures = json.loads((tmp_path / "s.json").read_text())
    assert {"yaw -45", "yaw 45", "smile 0.8"} <= figures.keys()
    assert figures["tolerance"].keys() == {"yaw", "smile"}
    assert "accepted: yaw within 5 degrees, smile within 0.127" in capsys.readouterr().out
