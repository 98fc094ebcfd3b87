"""The generation scripts as a user runs them, on the demo models."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from generation_runs import command, lines_written, manifest
from paths import PHOTOS, ROOT
from processes import Script, run_script
from written_datasets import assert_same_dataset, dataset_files

import image_generation
import image_generation_with_reference
import pose_image_generation
from utils.data.images import read_image
from utils.dataset.layout import contact_sheet_path, settings_path
from utils.dataset.writer import compact_dataset


def run(main, *flags):
    main([str(flag) for flag in flags])


def test_dataset(finished_datasets, vectors):
    folder = finished_datasets["folder"]
    lines = manifest(folder)
    assert [(line["identity"], line["index"]) for line in lines] == [(i, j) for i in range(6) for j in range(2)]
    for line in lines:
        assert line["file"] == f"{line['identity']:06d}/{line['index']:03d}.jpg"
        assert read_image(folder / line["file"]).shape == (112, 112, 3)
    verdicts = [line["attrop"] for line in lines if "attrop" in line]
    assert len(verdicts) == 6  # one an identity, with its first image
    for verdict in verdicts:
        assert verdict["measured_on"] == "check image"
        assert verdict["accepted"] == (not verdict["missed"]) == (not verdict["reason"])
        assert verdict["quality"] > 10
    assert sum(verdict["accepted"] for verdict in verdicts) > 0
    settings = json.loads(settings_path(folder).read_text())
    assert settings["settings"]["seed"] == 0
    assert len(settings["settings"]["generator"]) == 64
    assert settings["environment"]["torch"]
    assert read_image(contact_sheet_path(folder)).shape == (6 * 112, 2 * 112, 3)


def test_summary(demo, tmp_path, capsys):
    run(image_generation.main, *command(demo, start_end="0:2"), "--output_dir", tmp_path)
    out = capsys.readouterr().out
    assert "4 images made" in out
    assert "% accepted" in out
    assert "iterations on average" in out
    assert str(tmp_path / "test.about" / "contact_sheet.jpg") in out
    run(image_generation.main, *command(demo, start_end="0:2"), "--output_dir", tmp_path)
    assert "2 of 2 identities are there already" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["folder", "lmdb"])
def test_killed_and_resumed(demo, format, tmp_path):
    """SIGKILL in the middle, twice; the finished dataset equals an finished_datasets one.

    Twice as many people as AttrOP works on at a time, so that some are written while others are not begun.
    """
    words = [*command(demo, start_end="0:16"), "--format", format]
    flags = [*words, "--output_dir", tmp_path]
    kills = 0
    for wanted in (1, 9):
        process = Script("image_generation.py", *flags)
        while process.alive() and lines_written(tmp_path / "test") < 2 * wanted:
            time.sleep(0.002)
        process.signal(signal.SIGKILL)
        kills += process.wait().returncode == -signal.SIGKILL
    assert kills >= 1
    run(image_generation.main, *flags)
    run(image_generation.main, *words, "--output_dir", tmp_path / "whole")
    assert_same_dataset(tmp_path / "test", tmp_path / "whole" / "test")


def test_interrupted_by_hand(demo, tmp_path):
    """Ctrl-C: no traceback, and what is finished stays."""
    flags = [*command(demo, example=12), "--output_dir", tmp_path]
    process = Script("image_generation.py", *flags)
    while process.alive() and lines_written(tmp_path / "test") < 2:
        time.sleep(0.002)
    process.signal(signal.SIGINT)
    result = process.wait()
    assert result.returncode == 130
    assert "run the same command again" in result.stderr
    assert "Traceback" not in result.stderr
    run(image_generation.main, *flags)
    run(image_generation.main, *command(demo, example=12), "--output_dir", tmp_path / "whole")
    assert_same_dataset(tmp_path / "test", tmp_path / "whole" / "test")


@pytest.mark.parametrize("format", ["folder", "lmdb"])
def test_no_room_on_the_disk(demo, finished_datasets, format, tmp_path):
    """The system refuses to let files grow: the run stops with a line, and goes on when there is room."""
    flags = [*command(demo), "--output_dir", tmp_path, "--format", format]
    limit = 1800 if format == "folder" else 9000  # bytes: settings fit, a picture or an LMDB does not
    result = run_script("image_generation.py", *flags, largest_file=limit, check=False)
    assert result.returncode == 2, result.stderr
    assert "cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    image_generation.main([str(flag) for flag in flags])
    assert_same_dataset(tmp_path / "test", finished_datasets[format])


@pytest.mark.parametrize("format", ["folder", "lmdb"])
def test_two_ranks_make_the_same_dataset(demo, finished_datasets, format, tmp_path):
    flags = [*command(demo), "--output_dir", tmp_path, "--format", format]
    result = run_script("image_generation.py", *flags, ranks=2)
    assert "12 images made" in result.stdout
    assert_same_dataset(tmp_path / "test", finished_datasets[format])


def test_more_ranks_than_identities(demo, tmp_path):
    """By torchrun itself."""
    flags = [*command(demo, start_end="0:1"), "--output_dir", tmp_path]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*torchrun, "image_generation.py", *map(str, flags)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "2 images made" in result.stdout
    assert len(manifest(tmp_path / "test")) == 2


def test_a_dead_rank_ends_the_run(demo, finished_datasets, tmp_path):
    flags = [*command(demo), "--output_dir", tmp_path]
    process = Script("image_generation.py", *flags, ranks=2)
    while process.alive() and lines_written(tmp_path / "test") < 2:
        time.sleep(0.002)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    victim = max(map(int, children.stdout.split()))
    os.kill(victim, signal.SIGKILL)
    assert process.wait().returncode != 0
    run(image_generation.main, *flags)
    assert_same_dataset(tmp_path / "test", finished_datasets["folder"])


def test_slices_keep_their_numbers(demo, finished_datasets, tmp_path):
    for start_end in ("4:6", "0:1", "1:4"):
        run(image_generation.main, *command(demo, start_end=start_end), "--output_dir", tmp_path)
    compact_dataset(tmp_path / "test")  # slices are added in the order in which they arrive
    assert_same_dataset(tmp_path / "test", finished_datasets["folder"])


@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [
        ("--seed", 1, "seed"),
        ("--sigma", 0.4, "sigma"),
        ("--jpeg_quality", 90, "jpeg_quality"),
        ("--image_quality", 27, "attrop"),
        ("--mask_ratio_mu", 0.3, "mask_ratio"),
        ("--example", 1, "example"),
        ("--precision", "bf16", "precision"),
    ],
)
def test_other_settings_are_refused(demo, finished_datasets, flag, value, name, capsys):
    before = dataset_files(finished_datasets["folder"])
    flags = [*command(demo), "--output_dir", finished_datasets["folder"].parent, flag, value]
    with pytest.raises(SystemExit) as error:
        run(image_generation.main, *flags)
    assert error.value.code == 2
    assert f"{name} is " in capsys.readouterr().err
    assert dataset_files(finished_datasets["folder"]) == before


def test_overwrite_and_skip_attrop(demo, tmp_path):
    flags = [*command(demo, start_end="0:2"), "--output_dir", tmp_path]
    run(image_generation.main, *flags)
    run(image_generation.main, *flags, "--overwrite", "--skip_attrop", "--example", 3)
    lines = manifest(tmp_path / "test")
    assert len(lines) == 6
    assert all("attrop" not in line for line in lines)


def test_reference_photos(demo, tmp_path, encoder, capsys):
    photos = tmp_path / "photos"
    for person in ("person1", "person3"):
        (photos / person).mkdir(parents=True)
        (photos / person / "0.jpg").write_bytes((PHOTOS / person / "0.jpg").read_bytes())
    (photos / "person4.jpg").write_bytes((PHOTOS / "person4" / "0.jpg").read_bytes())
    (photos / "torn.jpg").write_bytes((PHOTOS / "person4" / "0.jpg").read_bytes()[:900])
    flags = ["--image_file", photos, *demo.models, "--example", 3, "--batch_size", 4, "--name", "refs"]
    run(image_generation_with_reference.main, *flags, "--output_dir", tmp_path / "out")
    out = capsys.readouterr().out
    assert "torn.jpg: truncated JPEG" in out
    folder = tmp_path / "out" / "refs"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["person1_0", "person3_0", "person4"]
    assert [line["sigma"] for line in manifest(folder)] == [0.2] * 9

    before = dataset_files(folder)
    run(image_generation_with_reference.main, *flags, "--output_dir", tmp_path / "out")
    assert dataset_files(folder) == before


def test_align_finds_the_face(demo, tmp_path, capsys):
    import cv2

    photo = cv2.imread(str(PHOTOS / "person1" / "0.jpg"))
    scene = np.full((400, 500, 3), 90, np.uint8)
    scene[80:304, 150:374] = cv2.resize(photo, (224, 224))
    cv2.imwrite(str(tmp_path / "scene.png"), scene)
    cv2.imwrite(str(tmp_path / "empty.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "list.txt").write_text("scene.png\nempty.png\n")
    flags = ["--image_file", tmp_path / "list.txt", "--align", *demo.models, "--example", 1, "--batch_size", 1]
    run(image_generation_with_reference.main, *flags, "--name", "a", "--output_dir", tmp_path / "out")
    assert "empty.png: no face found" in capsys.readouterr().out
    assert [line["name"] for line in manifest(tmp_path / "out" / "a")] == ["scene"]


def test_pose_with_the_full_size_pose_network(demo, filled_files, tmp_path):
    """6DRepNet with filled weights says nothing about faces; that it is asked, capped and recorded can be seen."""
    flags = [*command(demo, start_end="0:2"), "--output_dir", tmp_path, "--pose_weights", filled_files["sixdrepnet"]]
    run(pose_image_generation.main, *flags, "--pose", 45, "--pitch", 10, "--signed_pose")
    lines = manifest(tmp_path / "test-45")
    assert len(lines) == 4
    for line in lines:
        assert -90 <= line["yaw"] <= 90
        assert "pitch" in line
        assert line["attrop"]["iterations"] <= 4
        assert line["attrop"]["measured_on"] == "image"
        assert line["sigma"] == 0.7
    settings = json.loads(settings_path(tmp_path / "test-45").read_text())["settings"]["attrop"]
    assert settings == {"image_quality": 26, "max_iters": 4, "pose": 45, "signed_pose": True, "pitch": 10}


def test_start_class_id_and_ignored_flags(demo, tmp_path, capsys):
    flags = [*command(demo, start_end="3:4"), "--output_dir", tmp_path, "--start_class_id", 1000]
    run(image_generation.main, *flags, "--use_rep", "--rep_drop_prob", 0.1, "--skip_attrop")
    assert manifest(tmp_path / "test")[0]["name"] == "001003"
    assert "--use_rep, --rep_drop_prob: without effect" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["image_generation", "image_generation_with_reference", "pose_image_generation"])
def test_help_says_defaults(script, capsys):
    with pytest.raises(SystemExit) as done:
        {"image_generation": image_generation, "pose_image_generation": pose_image_generation}.get(
            script, image_generation_with_reference
        ).main(["--help"])
    assert done.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "images per identity (default: 50)",
        "images at a time (default: 64)",
        "without effect",
        "(default: 75)",
    ):
        assert text in out


def test_published_commands_parse_with_published_defaults():
    from utils.cli.generation_flags import generation_parser

    def parse(mode, *words):
        return generation_parser(mode, "").parse_args(words)

    shared = ["--model_weights", "weights/vec2face_generator.pth", "--batch_size", "5"]
    slice_ = [
        "--example",
        "1",
        "--start_end",
        "0:10",
        "--name",
        "test",
        "--center_feature",
        "center_feature_examples.npy",
    ]
    args = parse("identity", *shared, *slice_)
    assert (args.image_quality, args.output_dir, args.start_class_id) == (None, "generated_images", 0)
    assert (args.mask_ratio_min, args.mask_ratio_max, args.mask_ratio_mu, args.mask_ratio_std) == (0.1, 1, 0.15, 0.25)
    args = parse("pose", *shared, *slice_, "--pose", "45", "--image_quality", "25")
    assert (args.pose, args.image_quality, args.output_dir) == (45, 25, "generated_pose_images")
    photos = ["--image_file", "path/of/the/image/file or folder", "--example", "10", "--name", "images-of-references"]
    args = parse("reference", *shared, *photos)
    assert (args.feat_batch_size, args.output_dir, args.sigma) == (2000, "generated_images_ref", [0.2])
