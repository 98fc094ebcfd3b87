"""scripts/train_pose_control.py: what it trains, from which landmarks, and that it resumes to the same weights."""

import contextlib
import json
import signal

import msgpack
import numpy as np
import pytest
import torch
from adapter_training import YAWS, assert_same_adapter, checkpoint, flags, train, with_pictures, write_labels
from commands import refused, run
from generation_runs import manifest
from generator_training import four_of
from processes import Script, run_script
from training_lmdbs import content, write_lmdb

import pose_image_generation
from models import TokenMask, load_vec2face
from scripts import train_pose_control
from utils.data.images import encode_jpeg
from utils.data.landmark_data import DetectedLandmarks, LabelledLandmarks, LandmarkData, StoredPictures
from utils.data.landmarks import draw_landmarks, landmarks_at
from utils.data.training_data import TrainingData


@pytest.fixture(scope="module")
def labels(training_lmdb, tmp_path_factory):
    return write_labels(training_lmdb, tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def pictured_lmdb(training_lmdb, tmp_path_factory):
    return with_pictures(training_lmdb, tmp_path_factory.mktemp("pictured"))


@pytest.fixture(scope="module")
def finished(demo, pictured_lmdb, tmp_path_factory):
    """The folder of a training that has run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    train(*flags(demo, pictured_lmdb, folder))
    return folder


def test_the_adapter_is_trained_and_the_generator_is_not(demo, finished):
    content = checkpoint(finished, "model.pth")
    assert content["lora"] == {"rank": 2, "alpha": 32}
    assert content["model"] == "vec2face_vit_tiny"
    assert all(key.endswith((".A", ".B")) for key in content["model_vec2face"])
    assert all(value.any() for value in content["model_vec2face"].values())  # also each B, which begins at zero
    assert content["pose_model"]["linear.weight"].any()
    assert "optimizer" not in content
    steps = [json.loads(line)["step"] for line in (finished / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


def test_the_result_controls_images_by_landmarks(demo, finished, tmp_path):
    adapter = finished / "model.pth"
    generator = load_vec2face(demo.generator, adapter=adapter)
    vectors = torch.from_numpy(np.load(demo.vectors)[:1])
    mask = TokenMask.from_noise(torch.rand(1, 49), 0.6, 0.7)
    pictures = [torch.from_numpy(draw_landmarks(landmarks_at(yaw))).permute(2, 0, 1)[None] for yaw in (-60, 60)]
    with torch.inference_mode():
        left, right = (generator(vectors, mask, landmarks=p / 127.5 - 1).images for p in pictures)
    assert not torch.equal(left, right)
    words = [*demo.models, "--control", "landmarks", "--landmark_adapter", adapter, "--center_feature", demo.vectors]
    words += ["--start_end", "0:1", "--example", 1, "--name", "x", "--output_dir", tmp_path]
    run(pose_image_generation.main, *words)
    assert manifest(tmp_path / "x-85")[0]["landmarks"]["pitch"] == 0


@pytest.mark.slow
def test_the_reconstruction_of_the_photos_improves(demo, training_lmdb, labels, tmp_path):
    """From mean vectors, the same four photos in each step: beginning with the generator as it is, the loss falls."""
    more = ["--landmarks", labels, "--vectors", "identity", "--condition", "added", "--lora_alpha", 2]
    more += ["--mask", four_of(training_lmdb), "--batch_size", 4, "--epochs", 14, "--log_every", 1]
    train(*flags(demo, training_lmdb, tmp_path, *more))
    losses = [json.loads(line)["total"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 14
    assert np.mean(losses[-3:]) < 0.95 * losses[0]


def test_a_killed_training_resumes_to_the_same_weights(demo, pictured_lmdb, finished, tmp_path):
    words = flags(demo, pictured_lmdb, tmp_path, "--save_every", 1)
    killed = run_script("scripts/train_pose_control.py", *words, killed_at="step 4/", check=False)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint(tmp_path)["step"] == 3
    assert not (tmp_path / "model.pth").exists()
    train(*words, "--resume", tmp_path)
    assert_same_adapter(checkpoint(tmp_path, "model.pth"), checkpoint(finished, "model.pth"))
    assert_same_adapter(checkpoint(tmp_path), checkpoint(finished))


def test_sigterm_saves_a_checkpoint_and_the_training_resumes_to_the_same_weights(
    demo, pictured_lmdb, finished, tmp_path
):
    words = flags(demo, pictured_lmdb, tmp_path)
    process = Script("scripts/train_pose_control.py", *words)
    process.wait_until(lambda: "step 2/" in process.printed())
    process.signal(signal.SIGTERM, group=True)
    result = process.wait()
    assert result.returncode == 0
    assert "--resume" in result.stdout
    assert 2 <= checkpoint(tmp_path)["step"] < 8
    train(*words, "--resume", tmp_path)
    assert_same_adapter(checkpoint(tmp_path, "model.pth"), checkpoint(finished, "model.pth"))


@pytest.mark.slow
def test_a_training_killed_on_two_ranks_resumes_to_the_same_weights(demo, pictured_lmdb, tmp_path):
    words = [*flags(demo, pictured_lmdb, tmp_path / "killed", "--batch_size", 1), "--save_every", 1]
    job = Script("scripts/train_pose_control.py", *words, ranks=2)
    job.wait_until((tmp_path / "killed" / "checkpoint-last.pth").exists)
    job.signal(signal.SIGKILL, group=True)
    job.wait()
    assert 0 < checkpoint(tmp_path / "killed")["step"] < 8
    run_script("scripts/train_pose_control.py", *words, "--resume", tmp_path / "killed", ranks=2)
    run_script("scripts/train_pose_control.py", *words, "--output_dir", tmp_path / "whole", ranks=2)
    assert_same_adapter(*(checkpoint(tmp_path / name, "model.pth") for name in ("killed", "whole")))


def test_each_rank_has_the_averaged_gradients(demo, tmp_path):
    result = run_script("tests/adapter_gradients.py", demo.generator, tmp_path, ranks=2)
    assert result.returncode == 0
    one, two = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    assert one.keys() == two.keys()
    assert any(key.endswith(".B") for key in one)
    assert all(torch.equal(one[key], two[key]) for key in one)


def items(lmdb, source, vectors="photo"):
    """All nine items of a training LMDB."""
    with contextlib.closing(TrainingData(lmdb)) as records:
        data = LandmarkData(records, source, vectors)
        return [data[0, number] for number in range(9)]


def test_landmarks_come_from_the_lmdb_the_labels_or_the_detector(training_lmdb, pictured_lmdb, labels):
    for lmdb, source in ((pictured_lmdb, StoredPictures()), (training_lmdb, LabelledLandmarks(labels, training_lmdb))):
        item = items(lmdb, source)[2]
        assert not item.error
        difference = item.picture.float() - torch.from_numpy(draw_landmarks(landmarks_at(YAWS[2]))).float()
        assert difference.abs().mean() < 3  # JPEG, and the pitch of the labels
    detected = items(training_lmdb, DetectedLandmarks())
    assert all(item.picture.any() or "no face found" in item.error for item in detected)
    assert sum(not item.error for item in detected) >= 5


def test_identity_vectors_are_the_same_for_all_photos_of_an_identity(training_lmdb, labels):
    source = LabelledLandmarks(labels, training_lmdb)
    own = [item.vector for item in items(training_lmdb, source)]
    vectors = [item.vector for item in items(training_lmdb, source, "identity")]
    assert all(torch.equal(vectors[number], vectors[3 * (number // 3)]) for number in range(9))
    assert not torch.equal(vectors[0], vectors[3])
    assert not torch.equal(own[0], own[1])
    norms = torch.stack([vector.norm() for vector in own[:3]])
    assert vectors[0].norm() == pytest.approx(norms.mean().item(), rel=1e-4)


def test_an_lmdb_without_landmark_pictures_is_refused(demo, training_lmdb, tmp_path, capsys):
    line = refused(train_pose_control.main, flags(demo, training_lmdb, tmp_path), capsys)
    assert "record 0: a record without a landmark picture" in line
    assert "--landmarks lmdb" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landmarks": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 200]]}, "landmarks off the image"),
        ({"landmarks": [[1, 2], [3, 4], [5, 6]]}, "a face has five points"),
        ({"yaw": 120}, "a yaw of 120 degrees"),
    ],
)
def test_unsuitable_labels_are_refused_by_the_photo(demo, training_lmdb, labels, change, message, tmp_path, capsys):
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    lines[4] |= change
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = flags(demo, training_lmdb, tmp_path / "run", "--landmarks", path)
    line = refused(train_pose_control.main, words, capsys)
    assert lines[4]["file"] in line
    assert message in line


def test_a_photo_without_a_label_is_refused(demo, training_lmdb, labels, tmp_path, capsys):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(labels.read_text().splitlines(keepends=True)[1:]))
    words = flags(demo, training_lmdb, tmp_path / "run", "--landmarks", path)
    assert "not the labels of these photos" in refused(train_pose_control.main, words, capsys)


def test_a_picture_of_another_size_is_a_broken_record(demo, pictured_lmdb, tmp_path, capsys):
    records = content(pictured_lmdb)
    fields = msgpack.unpackb(records[b"5"])
    records[b"5"] = msgpack.packb([*fields[:3], encode_jpeg(np.zeros((96, 96, 3), np.uint8), 90)])
    path = write_lmdb(tmp_path / "x.lmdb", records)
    words = flags(demo, path, tmp_path / "run", "--max_bad_records", 0)
    assert "more than --max_bad_records 0 broken records" in refused(train_pose_control.main, words, capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lora_r", 4], "another adapter: its lora is"),
        (["--condition", "added"], "another adapter: its condition is"),
        (["--batch_size", 3], "--batch_size is 3"),
    ],
)
def test_another_adapter_cannot_be_resumed(demo, pictured_lmdb, finished, more, message, capsys):
    before = (finished / "checkpoint-last.pth").read_bytes()
    words = flags(demo, pictured_lmdb, finished, *more, "--resume", finished)
    assert message in refused(train_pose_control.main, words, capsys)
    assert (finished / "checkpoint-last.pth").read_bytes() == before


def test_a_folder_with_a_run_is_not_overwritten(demo, pictured_lmdb, finished, capsys):
    words = flags(demo, pictured_lmdb, finished)
    assert "already holds a training run" in refused(train_pose_control.main, words, capsys)


def test_a_generator_of_another_preset_is_refused(demo, pictured_lmdb, tmp_path, capsys):
    words = flags(demo, pictured_lmdb, tmp_path, "--model", "vec2face_vit_base_patch16")
    assert "holds a vec2face_vit_tiny" in refused(train_pose_control.main, words, capsys)
