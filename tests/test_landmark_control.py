"""pose_image_generation.py --control landmarks, and pose_control.py: poses given by landmark pictures."""

import json

import numpy as np
import pytest
from adapters import write_adapter
from commands import refused, run
from generation_runs import lines_written, manifest
from paths import PHOTOS, ROOT, files_of
from PIL import Image
from processes import Script, run_script
from written_datasets import assert_same_dataset

import pose_control
import pose_image_generation
from utils.data.landmarks import draw_landmarks, landmarks_at
from utils.dataset.layout import settings_path

POSE_MODEL = ROOT / "weights" / "demo" / "head_pose.pth"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("adapter") / "adapter.pth")


@pytest.fixture(scope="module")
def flags(demo, adapter):
    """A short command with six identities of three images."""
    return [
        *demo.models, "--control", "landmarks", "--landmark_adapter", adapter, "--center_feature", demo.vectors,
        "--start_end", "0:6", "--example", 3, "--batch_size", 4, "--name", "test",
    ]  # fmt: skip


def write_pictures(folder, *yaws):
    """A list of landmark pictures at these yaws, in the published form, and the pictures."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for yaw in yaws:
        Image.fromarray(draw_landmarks(landmarks_at(yaw))).save(folder / "images" / f"{yaw}.png")
    (folder / "list.txt").write_text("".join(f"./images/{yaw}.png\n" for yaw in yaws))
    return folder / "list.txt"


def write_bank(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def settings_of(dataset):
    return json.loads(settings_path(dataset).read_text())["settings"]


def test_pictures_of_a_list_take_turns_in_its_order(flags, tmp_path):
    pictures = write_pictures(tmp_path, 30, -30)
    run(pose_image_generation.main, *flags, "--output_dir", tmp_path / "out", "--pose_file", pictures)
    lines = manifest(tmp_path / "out" / "test")
    assert len(lines) == 18
    for line in lines:
        turn = (line["identity"] + line["index"]) % 2
        assert line["landmarks"] == {"picture": ("30.png", "-30.png")[turn]}
        assert line["sigma"] == 0
        assert "attrop" not in line
    settings = settings_of(tmp_path / "out" / "test")
    assert settings["control"] == "landmarks"
    assert len(settings["pose_file"]) == 2
    assert len(settings["landmark_adapter"]) == 64
    assert settings["mask_ratio"] == [0.8, 0.9, 0.85, 0.05]


def test_one_pose_is_drawn_to_either_side_or_to_the_signed_one(flags, tmp_path):
    words = [*flags, "--output_dir", tmp_path, "--pose", 40, "--pitch", 10, "--roll", -5]
    run(pose_image_generation.main, *words)
    poses = [line["landmarks"] for line in manifest(tmp_path / "test-40")]
    assert {pose["yaw"] for pose in poses} == {40, -40}
    assert {(pose["pitch"], pose["roll"]) for pose in poses} == {(10, -5)}
    run(pose_image_generation.main, *words, "--signed_pose", "--name", "signed")
    assert {line["landmarks"]["yaw"] for line in manifest(tmp_path / "signed-40")} == {40}


@pytest.mark.slow
def test_the_quotas_of_yaw_hold_for_every_identity(flags, tmp_path):
    quotas = ["--yaw_quota", "0-15:50", "15-45:30", "45-90:20"]
    run(pose_image_generation.main, *flags, "--output_dir", tmp_path, *quotas, "--example", 20)
    yaws = {}
    for line in manifest(tmp_path / "test"):
        yaws.setdefault(line["name"], []).append(abs(line["landmarks"]["yaw"]))
    assert len(yaws) == 6
    for own in yaws.values():
        counts = np.histogram(own, [0, 15, 45, 90])[0]
        assert np.abs(counts - [10, 6, 4]).max() <= 1
    assert len({yaw for own in yaws.values() for yaw in own}) > 100
    assert len({own[0] < 15 for own in yaws.values()}) == 2  # not all identities begin with the same range


def test_a_bank_gives_its_poses_and_its_landmarks_in_the_ranges_asked_for(flags, tmp_path):
    exact = landmarks_at(70).round(2).tolist()
    bank = write_bank(
        tmp_path / "bank.jsonl", {"yaw": 5, "pitch": 3, "roll": 1}, {"yaw": -60}, {"yaw": 70, "landmarks": exact}
    )
    words = [*flags, "--output_dir", tmp_path, "--landmark_bank", bank]
    run(pose_image_generation.main, *words, "--yaw_quota", "45-90:1", "--example", 8)
    lines = manifest(tmp_path / "test")
    assert {line["landmarks"]["line"] for line in lines} == {2, 3}
    run(pose_image_generation.main, *words, "--name", "all", "--example", 8)
    lines = manifest(tmp_path / "all")
    assert {line["landmarks"]["line"] for line in lines} == {1, 2, 3}
    assert {"line": 1, "yaw": 5, "pitch": 3, "roll": 1} in [line["landmarks"] for line in lines]
    assert settings_of(tmp_path / "all")["yaw_quota"] == []


def test_other_landmarks_make_other_images_and_only_they_do(flags, tmp_path):
    for name, pose in (("a", 40), ("b", 40), ("c", 10)):
        words = ["--name", name, "--pose", pose, "--signed_pose", "--output_dir", tmp_path]
        run(pose_image_generation.main, *flags, *words)
    a, b, c = (files_of(tmp_path / name) for name in ("a-40", "b-40", "c-10"))
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a)


def test_attrop_lifts_the_identity_vector_first_if_a_quality_is_asked_for(flags, demo, tmp_path):
    words = ["--image_quality", 20, "--quality_weights", demo.encoder, "--max_iters", 2, "--start_end", "0:2"]
    run(pose_image_generation.main, *flags, *words, "--pose", 20, "--output_dir", tmp_path)
    lines = manifest(tmp_path / "test-20")
    assert [line["attrop"]["measured_on"] for line in lines if "attrop" in line] == ["check image"] * 2
    assert settings_of(tmp_path / "test-20")["attrop"] == {"image_quality": 20, "max_iters": 2}


def test_poses_are_measured_and_gated_as_in_every_generation(flags, demo, tmp_path):
    words = ["--measure", "--quality_weights", demo.encoder, "--pose_weights", POSE_MODEL, "--min_id_similarity", -1]
    run(pose_image_generation.main, *flags, *words, "--pose", 20, "--output_dir", tmp_path)
    for line in manifest(tmp_path / "test-20"):
        assert {"id_similarity", "quality", "yaw", "pitch", "landmarks"} <= line.keys()
        assert line["passed"]


def test_the_published_command_runs_under_its_name(demo, adapter, tmp_path, monkeypatch, capsys):
    pictures = write_pictures(tmp_path, 30, -30)
    monkeypatch.chdir(tmp_path)
    words = [
        "--batch_size", 64, "--image_file", PHOTOS, "--example", 1, "--name", "test_examples", "--use_lora",
        "--lora_r", 8, "--model_weights", demo.generator, "--landmark_adapter", adapter, "--pose_file", pictures,
        "--id_weights", demo.encoder, "--device", "cpu",
    ]  # fmt: skip
    run(pose_control.main, *words)
    lines = manifest(tmp_path / "generated_images_ref" / "test_examples")
    assert len(lines) == 9
    assert [line["landmarks"]["picture"] for line in lines] == ["30.png", "-30.png"] * 4 + ["30.png"]
    assert "9 images made" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--yaw_quota", "0-20:1", "20-90:2"], ["--pose", "50"]])
def test_two_ranks_slices_and_later_images_make_the_same_dataset(flags, more, tmp_path):
    name = "test-50" if "--pose" in more else "test"
    words = [*flags, *more, "--output_dir"]
    run(pose_image_generation.main, *words, tmp_path / "whole")
    run_script("pose_image_generation.py", *words, tmp_path / "ranks", ranks=2)
    assert_same_dataset(tmp_path / "whole" / name, tmp_path / "ranks" / name)
    for slice, example in (("3:6", 1), ("0:2", 3), ("0:6", 3)):
        run(pose_image_generation.main, *words, tmp_path / "slices", "--start_end", slice, "--example", example)
    assert files_of(tmp_path / "whole" / name) == files_of(tmp_path / "slices" / name)
    assert manifest(tmp_path / "whole" / name) == manifest(tmp_path / "slices" / name)


@pytest.mark.parametrize("format", [pytest.param("folder", marks=pytest.mark.slow), "lmdb"])
def test_a_killed_run_is_finished_by_the_next_to_the_same_dataset(flags, format, tmp_path):
    words = [*flags, "--yaw_quota", "0-20:1", "20-90:2", "--start_end", "0:24", "--format", format, "--output_dir"]
    process = Script("pose_image_generation.py", *words, tmp_path / "killed")
    process.wait_until(lambda: lines_written(tmp_path / "killed" / "test") >= 3)
    process.signal(9)
    assert process.wait().returncode == -9
    run(pose_image_generation.main, *words, tmp_path / "killed")
    run(pose_image_generation.main, *words, tmp_path / "whole")
    assert_same_dataset(tmp_path / "killed" / "test", tmp_path / "whole" / "test")


def test_other_landmarks_into_the_same_dataset_are_refused_by_name(flags, tmp_path, capsys):
    words = [*flags, "--output_dir", tmp_path, "--yaw_quota"]
    run(pose_image_generation.main, *words, "0-20:1")
    assert "yaw_quota is" in refused(pose_image_generation.main, [*words, "0-40:1"], capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pose_file", "nowhere.txt"], "nowhere.txt: cannot read this list"),
        (["--landmark_bank", "nowhere.jsonl"], "nowhere.jsonl: cannot read this landmark bank"),
        (["--pose_file", "x", "--landmark_bank", "y"], "give one of them"),
        (["--pose_file", "x", "--pose", "3"], "--pose_file gives the poses; leave --pose out"),
        (["--yaw_quota", "0-9:1", "--roll", "3"], "--yaw_quota gives the poses; leave --roll out"),
        (["--yaw_quota", "15-5:1"], "15-5:1: not a range"),
        (["--yaw_quota", "0-95:1"], "0-95:1: not a range"),
        (["--yaw_quota", "0-45:0"], "0-45:0: not a range"),
        (["--yaw_quota", "0-45:1", "30-90:1"], "0-45 and 30-90 overlap"),
        (["--pose", "95"], "a yaw lies between"),
        (["--pose", "30", "--pitch", "80"], "a pitch of 80 degrees"),
        (["--lora_r", "4"], "--lora_r 4: the LoRA of"),
        (["--lora_alpha", "16"], "--lora_alpha 16: the LoRA of"),
        (["--model", "vec2face_vit_base_patch16"], "holds a vec2face_vit_tiny"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(flags, more, message, tmp_path, capsys):
    assert message in refused(pose_image_generation.main, [*flags, "--output_dir", tmp_path / "out", *more], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"yaw": 3}', "nonsense"], "line 2 is no pose"),
        (['{"landmarks": [[1, 2], [3, 4], [5, 6], [7, 8]]}'], "landmarks of shape (4, 2); a face has five points"),
        (['{"landmarks": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 112]]}'], "landmarks off the image of 112 x 112"),
        (['{"landmarks": [[1, 2], [3, 4], [5, 6], [7, 8], [9, null]]}'], "line 1 is no pose"),
        (['{"pitch": 3}'], "neither landmarks nor a yaw"),
        (['{"yaw": "left"}'], "line 1 is no pose"),
        (["7"], "line 1 is no pose"),
        ([], "an empty landmark bank"),
        (['{"yaw": 3}'], "none of its poses has a |yaw| of 30-90"),
    ],
)
def test_an_unsuitable_bank_is_refused_by_its_line(flags, lines, message, tmp_path, capsys):
    path = tmp_path / "bank.jsonl"
    path.write_text("\n".join(lines))
    words = ["--output_dir", tmp_path / "out", "--landmark_bank", path, "--yaw_quota", "30-90:1"]
    assert message in refused(pose_image_generation.main, [*flags, *words], capsys)
    assert not (tmp_path / "out").exists()


def picture_of(kind):
    picture = draw_landmarks(landmarks_at(20))
    if kind == "another size":
        return np.kron(picture, np.ones((2, 2, 1), np.uint8))
    if kind == "a photo":
        return np.full((112, 112, 3), 128, np.uint8)
    x, y = landmarks_at(20)[4].round().astype(int)
    picture[y - 3 : y + 4, x - 3 : x + 4] = 0  # four landmarks
    return picture


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("another size", "a picture of 224 x 224 pixels"),
        ("four landmarks", "2 red, 1 green and 1 blue dots"),
        ("a photo", "0 red, 0 green and 0 blue dots"),
    ],
)
def test_an_unsuitable_picture_is_refused_by_its_name(flags, kind, message, tmp_path, capsys):
    Image.fromarray(picture_of(kind)).save(tmp_path / "bad.png")
    (tmp_path / "list.txt").write_text("bad.png\n")
    words = ["--output_dir", tmp_path / "out", "--pose_file", tmp_path / "list.txt"]
    line = refused(pose_image_generation.main, [*flags, *words], capsys)
    assert "bad.png: not a landmark picture" in line
    assert message in line
    assert not (tmp_path / "out").exists()


def test_an_empty_list_and_a_missing_picture_are_refused(flags, tmp_path, capsys):
    words = [*flags, "--output_dir", tmp_path / "out", "--pose_file", tmp_path / "list.txt"]
    (tmp_path / "list.txt").write_text("\n")
    assert "an empty list" in refused(pose_image_generation.main, words, capsys)
    (tmp_path / "list.txt").write_text("gone.png\n")
    assert "gone.png: no such landmark picture" in refused(pose_image_generation.main, words, capsys)


def test_a_generator_without_a_landmark_encoder_is_refused(demo, tmp_path, capsys):
    words = [*demo.models, "--control", "landmarks", "--center_feature", demo.vectors, "--name", "test"]
    line = refused(pose_image_generation.main, [*words, "--output_dir", tmp_path / "out"], capsys)
    assert "has no landmark encoder" in line
    assert "scripts/train_pose_control.py" in line


def test_flags_of_landmark_control_are_refused_where_attrop_controls(demo, tmp_path, capsys):
    words = [*demo.models, "--center_feature", demo.vectors, "--name", "test", "--output_dir", tmp_path / "out"]
    line = refused(pose_image_generation.main, [*words, "--yaw_quota", "0-9:1"], capsys)
    assert "--yaw_quota needs --control landmarks" in line


def test_an_adapter_of_another_generator_is_warned_of(flags, tmp_path, capsys):
    other = write_adapter(tmp_path / "other.pth", generator_sha256="0" * 64)
    words = ["--landmark_adapter", other, "--start_end", "0:1", "--output_dir", tmp_path]
    run(pose_image_generation.main, *flags, *words)
    assert "other.pth was trained for another generator than" in capsys.readouterr().out
