"""Gates by a second face encoder, against people to avoid and by a face detector, and the selection of the best."""

import json

import numpy as np
import pytest
import torch
from commands import refused, run
from paths import PHOTOS
from second_encoder import write_second_encoder
from written_datasets import assert_same_dataset

import image_generation
import image_generation_with_reference
import pose_image_generation
from models.iresnet import load_face_encoder
from utils.data.images import read_image
from utils.dataset.layout import manifest_path, settings_path


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return write_second_encoder(tmp_path_factory.mktemp("second") / "encoder.pth")


def words(demo, folder, *more, start_end="0:2", example=4):
    flags = ["--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--start_end", start_end]
    flags += ["--skip_attrop", "--max_tries", 2, "--example", example, "--output_dir", folder, "--name", "gated"]
    return [*demo.models, *flags, *more]


def lines_of(folder):
    return [json.loads(line) for line in manifest_path(folder / "gated").read_text().splitlines()]


def features_of(encoder, root, lines):
    images = np.stack([read_image(root / line["file"]) for line in lines])
    with torch.inference_mode():
        return encoder(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).numpy()  # (N, 112, 112, 3) -> features


def test_a_second_encoder_gates_and_chooses_the_best(demo, second, tmp_path, capsys):
    gate = ["--gate_weights", second, "--min_gate_similarity", 0.3]
    run(image_generation.main, *words(demo, tmp_path, *gate, "--best", 2, "--of", 5, example=50))
    assert "of 5 images of an identity the best 2 are kept" in capsys.readouterr().out
    lines = lines_of(tmp_path)
    assert len(lines) == 10
    for number in range(2):
        mine = [line for line in lines if line["identity"] == number]
        kept = [line["gate_similarity"] for line in mine if line["passed"]]
        others = [line["tries"][-1]["gate_similarity"] for line in mine if not line["passed"]]
        assert len(kept) == 2
        assert min(kept) >= max(others)
    assert len(list((tmp_path / "gated").glob("*/*.jpg"))) == 4
    settings = json.loads(settings_path(tmp_path / "gated").read_text())["settings"]
    assert (settings["best"], settings["of"], settings["min_gate_similarity"]) == (2, 5, 0.3)
    assert len(settings["gate_model"]) == 64
    features = features_of(load_face_encoder(second), tmp_path / "gated", [line for line in lines if line["passed"]])
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    same, other = units[0] @ units[1], (units[:2] @ units[2:].T).mean()
    assert same > other, "images that a second encoder accepts resemble each other by it"
    line = refused(image_generation.main, words(demo, tmp_path, *gate, "--best", 2, "--of", 6, example=50), capsys)
    assert "of is 5 there and 6 now" in line


def test_the_first_encoder_chooses_where_there_is_no_second(demo, tmp_path):
    run(image_generation.main, *words(demo, tmp_path, "--best", 1, "--of", 3, example=50))
    for number in range(2):
        mine = [line for line in lines_of(tmp_path) if line["identity"] == number]
        (kept,) = [line["id_similarity"] for line in mine if line["passed"]]
        assert all(kept >= line["tries"][-1]["id_similarity"] for line in mine if not line["passed"])


def test_no_image_resembles_a_vector_to_avoid(demo, encoder, vectors, tmp_path, capsys):
    """Those of the first identity's own vector, which no image of it can but resemble, and of a far one."""
    np.save(tmp_path / "real.npy", vectors[[0, 100]])
    np.save(tmp_path / "more.npy", vectors[[101]])
    avoid = ["--avoid", tmp_path / "real.npy", tmp_path / "more.npy", "--max_avoid_similarity", 0.4]
    run(image_generation.main, *words(demo, tmp_path, *avoid))
    lines = lines_of(tmp_path)
    assert not any(line["passed"] for line in lines if line["identity"] == 0)
    assert "avoid_similarity above 0.4 at every try: 4 images" in capsys.readouterr().out
    passed = [line for line in lines if line["passed"]]
    assert len(passed) >= 2
    units = features_of(encoder, tmp_path / "gated", passed)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    people = vectors[[0, 100, 101]] / np.linalg.norm(vectors[[0, 100, 101]], axis=1, keepdims=True)
    expected = (units @ people.T).max(1)
    assert [line["avoid_similarity"] for line in passed] == pytest.approx(expected, abs=0.08)  # JPEG came between
    assert all(line["avoid_similarity"] <= 0.4 for line in passed)


def test_a_face_detector_finds_one_face_near_the_template(demo, tmp_path):
    run(image_generation.main, *words(demo, tmp_path, "--max_landmark_error", 3))
    lines = lines_of(tmp_path)
    passed = [line for line in lines if line["passed"]]
    tries = [one for line in lines for one in line.get("tries", ())]
    assert passed
    assert tries
    assert all(line["faces"] == 1 and line["landmark_error"] <= 3 for line in passed)
    assert all(one["faces"] != 1 or one["landmark_error"] > 3 for one in tries)


@pytest.mark.slow
def test_all_gates_together_make_the_same_dataset_in_slices_and_with_attrop_on_images(demo, second, vectors, tmp_path):
    np.save(tmp_path / "real.npy", vectors[100:110])
    gates = ["--gate_weights", second, "--min_gate_similarity", 0.2, "--best", 1, "--of", 2, "--noise", "cone"]
    gates += ["--avoid", tmp_path / "real.npy", "--max_avoid_similarity", 0.4, "--max_landmark_error", 9]
    for folder, slices in (("whole", ["0:3"]), ("parts", ["0:1", "1:3"])):
        for start_end in slices:
            run(image_generation.main, *words(demo, tmp_path / folder, *gates, start_end=start_end, example=50))
    assert_same_dataset(tmp_path / "whole" / "gated", tmp_path / "parts" / "gated")
    flags = words(demo, tmp_path / "pose", *gates, "--pose_weights", demo.pose, "--max_iters", 1, "--pose", 10)
    flags.remove("--skip_attrop")
    run(pose_image_generation.main, *flags, "--example", 50, "--start_end", "0:1")
    lines = list(map(json.loads, manifest_path(tmp_path / "pose" / "gated-10").read_text().splitlines()))
    assert len(lines) == 2
    measured = [line if line["passed"] else line["tries"][-1] for line in lines]
    assert all({"gate_similarity", "avoid_similarity", "faces"} <= line.keys() for line in measured)


def test_people_in_photos_are_gated_by_a_second_encoder_too(demo, second, tmp_path):
    flags = [*demo.models, "--image_file", PHOTOS / "person1", "--example", 2, "--name", "gated"]
    flags += ["--output_dir", tmp_path, "--gate_weights", second, "--min_gate_similarity", -1]
    run(image_generation_with_reference.main, *flags)
    assert all("gate_similarity" in line for line in lines_of(tmp_path))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--best", 50, "--of", 40], "there are no 50 images among 40"),
        (["--best", 2], "--best and --of: give both"),
        (["--of", 2], "--best and --of: give both"),
        (["--best", 2, "--of", 3, "--example", 7], "--best takes its place"),
        (["--best", 0, "--of", 3], "at least 1"),
        (["--min_gate_similarity", 0.3], "needs --gate_weights"),
        (["--gate_weights", "x.pth"], "nothing uses it"),
        (["--gate_weights", "x.pth", "--min_gate_similarity", 0.3], "x.pth: no such weight file"),
        (["--max_avoid_similarity", 0.3], "needs --avoid"),
        (["--max_landmark_error", 0], "above 0"),
        (["--avoid", "nowhere.npy"], "nowhere.npy: no such file"),
        (["--reserve", "nowhere.npy"], "without a gate no identity fails"),
        (["--reserve", "nowhere.npy", "--min_quality", 3], "nowhere.npy: no such file"),
    ],
)
def test_gates_that_cannot_be_are_refused_before_anything_is_written(demo, flags, message, tmp_path, capsys):
    assert message in refused(image_generation.main, words(demo, tmp_path / "out", *flags), capsys)
    assert not (tmp_path / "out").exists()


def test_a_vector_to_avoid_that_is_zero_is_named_by_its_row(demo, vectors, tmp_path, capsys):
    people = vectors[:4].copy()
    people[2] = 0
    np.save(tmp_path / "real.npy", people)
    line = refused(image_generation.main, words(demo, tmp_path / "out", "--avoid", tmp_path / "real.npy"), capsys)
    assert "real.npy: row 2 is all zero" in line
    assert not (tmp_path / "out").exists()
