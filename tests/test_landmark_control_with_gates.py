"""Landmark control together with noise in a cone, gates, the best of N and a reserve."""

import json

import numpy as np
import pytest
import torch
from adapters import write_adapter
from commands import refused, run
from generation_runs import manifest
from paths import PHOTOS
from people_files import write_people
from processes import run_script
from second_encoder import write_second_encoder
from written_datasets import dataset_files

import pose_image_generation
from models import MaskRates, load_vec2face
from models.iresnet import load_face_encoder
from models.pixels import to_images, to_pixels
from utils.dataset.layout import about_folder, settings_path
from utils.dataset.writer import compact_dataset
from utils.generation.anchors import with_anchors
from utils.generation.decoding import decode_rows
from utils.generation.landmark_choice import OnePose, drawn
from utils.generation.recipe import Identity, Recipe
from utils.generation.streams import anchor_stream

SIMILARITY = 0.55  # the lowest by the second encoder that passes: not all identities reach it twice
QUOTAS = ["--yaw_quota", "0-20:1", "20-60:1"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("adapter") / "adapter.pth")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return write_second_encoder(tmp_path_factory.mktemp("second") / "encoder.pth")


@pytest.fixture(scope="module")
def people(demo, tmp_path_factory):
    """The vectors of six identities, and three others in reserve."""
    return write_people(tmp_path_factory.mktemp("people"), np.load(demo.vectors), 6, 3)


@pytest.fixture(scope="module")
def flags(demo, adapter, people):
    return [
        *demo.models, "--control", "landmarks", "--landmark_adapter", adapter, "--quality_weights", demo.encoder,
        "--center_feature", people / "people.npy", "--name", "test", "--noise", "cone", "--lower_bound", 0.7,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def everything(flags, people, second):
    """A gate by a second encoder, and of three images the best two, or else the next of the reserve."""
    gate = ["--gate_weights", second, "--min_gate_similarity", SIMILARITY, "--max_tries", 2]
    return [*flags, *QUOTAS, *gate, "--best", 2, "--of", 3, "--reserve", people / "reserve.npy"]


@pytest.fixture(scope="module")
def whole(everything, tmp_path_factory):
    """The dataset of a single run."""
    folder = tmp_path_factory.mktemp("whole")
    run(pose_image_generation.main, *everything, "--output_dir", folder)
    return folder / "test"


def test_images_have_a_cosine_of_the_cone_and_the_landmarks_that_they_would_have_without(flags, tmp_path):
    words = [*flags, *QUOTAS, "--example", 4, "--output_dir", tmp_path]
    run(pose_image_generation.main, *words)
    lines = manifest(tmp_path / "test")
    assert len(lines) == 24
    assert all(0.7 <= line["cosine"] <= 1 and "sigma" not in line for line in lines)
    assert len({line["cosine"] for line in lines}) == 24
    settings = json.loads(settings_path(tmp_path / "test").read_text())["settings"]
    assert (settings["noise"], settings["lower_bound"], settings["control"]) == ("cone", 0.7, "landmarks")
    noise = words.index("--noise")
    run(pose_image_generation.main, *words[:noise], *words[noise + 4 :], "--name", "plain")
    assert [line["landmarks"] for line in manifest(tmp_path / "plain")] == [line["landmarks"] for line in lines]


def test_complete_identities_of_the_best_images_keep_their_landmarks(whole):
    lines, passed = manifest(whole), {}
    assert all({"landmarks", "cosine"} <= line.keys() for line in lines)
    for line in lines:
        if line["passed"]:
            passed.setdefault(line["name"], []).append(line["gate_similarity"])
    assert len(passed) == 6
    assert all(len(own) == 2 and min(own) >= SIMILARITY for own in passed.values())
    listed = [json.loads(line) for line in (about_folder(whole) / "replaced.jsonl").read_text().splitlines()]
    assert any(line.get("replaced_by") for line in listed), "a threshold that some identities do not reach"
    assert len({line["landmarks"]["yaw"] for line in lines}) == len(lines)


@pytest.mark.slow
def test_slices_and_ranks_make_the_same_dataset(whole, everything, tmp_path):
    run(pose_image_generation.main, *everything, "--output_dir", tmp_path, "--start_end", "4:6")
    run_script("pose_image_generation.py", *everything, "--output_dir", tmp_path, "--start_end", "0:6", ranks=2)
    compact_dataset(tmp_path / "test")
    there, expected = dataset_files(tmp_path / "test"), dataset_files(whole)
    assert there.keys() == expected.keys()
    assert {name for name in there if there[name] != expected[name]} <= {"about/contact_sheet.jpg"}


def test_a_second_encoder_compares_with_a_frontal_image(demo, adapter, second):
    """Whatever the landmarks of the images are."""
    generator, encoder = load_vec2face(demo.generator, adapter=adapter), load_face_encoder(second)
    vector = np.load(demo.vectors)[3].astype(np.float32)
    recipe = Recipe(2, (0.0,), landmarks=OnePose(60), mask_rates=MaskRates())
    starts = [(Identity(3, "three", vector), vector, None)]
    ((identity, _, _),) = with_anchors(starts, generator, encoder, recipe, batch_size=2)

    def feature(yaw):
        streams, pictures = [anchor_stream(0, 3)], [drawn(yaw, 0, 0).picture]
        images = decode_rows(generator, np.stack([vector, vector]), recipe.mask_rates, streams, pictures).images
        with torch.inference_mode():
            return encoder(to_images(to_pixels(images)))[0].numpy()

    assert identity.anchor == pytest.approx(feature(0), abs=1e-4)
    assert np.abs(identity.anchor - feature(60)).max() > 1e-2


def test_attrop_on_images_has_a_reserve_too(demo, people, tmp_path):
    words = [*demo.models, "--skip_attrop", "--quality_weights", demo.encoder, "--pose_weights", demo.pose]
    words += ["--center_feature", people / "people.npy", "--reserve", people / "reserve.npy", "--start_end", "0:2"]
    words += ["--min_id_similarity", 0.99, "--max_tries", 1, "--example", 1, "--name", "test", "--output_dir", tmp_path]
    run(pose_image_generation.main, *words)
    listed = (about_folder(tmp_path / "test-85") / "replaced.jsonl").read_text().splitlines()
    assert len(listed) == 5, "two of the file and three of the reserve"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sigma", 0.5], "--sigma: belongs to --noise gaussian"),
        (["--noise", "gaussian"], "--lower_bound: belongs to --noise cone"),
        (["--best", 5, "--of", 4], "there are no 5 images among 4"),
        (["--reserve", "nowhere.npy"], "without a gate no identity fails"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(flags, more, message, tmp_path, capsys):
    assert message in refused(pose_image_generation.main, [*flags, "--output_dir", tmp_path / "out", *more], capsys)
    assert not (tmp_path / "out").exists()


def test_photos_have_no_reserve(demo, adapter, people, tmp_path, capsys):
    words = [*demo.models, "--control", "landmarks", "--landmark_adapter", adapter, "--image_file", PHOTOS]
    words += ["--reserve", people / "reserve.npy", "--min_id_similarity", 0.1, "--name", "test"]
    line = refused(pose_image_generation.main, [*words, "--output_dir", tmp_path / "out"], capsys)
    assert "--reserve: belongs to --center_feature" in line
