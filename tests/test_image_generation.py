"""image_generation.py on the demo models: what it writes, refuses and prints."""

import json

import pytest
from commands import run
from generation_runs import command, manifest
from written_datasets import assert_same_dataset, dataset_files

import image_generation
import image_generation_with_reference
import pose_image_generation
from utils.data.images import read_image
from utils.dataset.layout import contact_sheet_path, settings_path
from utils.dataset.writer import compact_dataset


def test_a_dataset_has_its_images_its_manifest_and_its_settings(finished_datasets, vectors):
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


def test_the_summary_counts_images_and_accepted_rows(demo, tmp_path, capsys):
    run(image_generation.main, *command(demo, start_end="0:2"), "--output_dir", tmp_path)
    out = capsys.readouterr().out
    assert "4 images made" in out
    assert "% accepted" in out
    assert "iterations on average" in out
    assert str(tmp_path / "test.about" / "contact_sheet.jpg") in out
    run(image_generation.main, *command(demo, start_end="0:2"), "--output_dir", tmp_path)
    assert "2 of 2 identities are there already" in capsys.readouterr().out


def test_slices_in_any_order_keep_their_identity_numbers(demo, finished_datasets, tmp_path):
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
        ("--image_quality", 27, "image_quality"),
        ("--mask_ratio_mu", 0.3, "mask_ratio"),
        ("--example", 1, "example"),
        ("--precision", "bf16", "precision"),
    ],
)
def test_a_run_with_other_settings_is_refused_and_changes_nothing(demo, finished_datasets, flag, value, name, capsys):
    before = dataset_files(finished_datasets["folder"])
    flags = [*command(demo), "--output_dir", finished_datasets["folder"].parent, flag, value]
    with pytest.raises(SystemExit) as error:
        run(image_generation.main, *flags)
    assert error.value.code == 2
    assert f"{name} is " in capsys.readouterr().err
    assert dataset_files(finished_datasets["folder"]) == before


def test_overwrite_replaces_a_dataset_and_skip_attrop_leaves_no_verdicts(demo, tmp_path):
    flags = [*command(demo, start_end="0:2"), "--output_dir", tmp_path]
    run(image_generation.main, *flags)
    run(image_generation.main, *flags, "--overwrite", "--skip_attrop", "--example", 3)
    lines = manifest(tmp_path / "test")
    assert len(lines) == 6
    assert all("attrop" not in line for line in lines)


def test_start_class_id_is_added_to_the_number_and_ignored_flags_are_named(demo, tmp_path, capsys):
    flags = [*command(demo, start_end="3:4"), "--output_dir", tmp_path, "--start_class_id", 1000]
    run(image_generation.main, *flags, "--use_rep", "--rep_drop_prob", 0.1, "--skip_attrop")
    assert manifest(tmp_path / "test")[0]["name"] == "001003"
    assert "--use_rep, --rep_drop_prob: without effect" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["image_generation", "image_generation_with_reference", "pose_image_generation"])
def test_the_help_states_the_defaults(script, capsys):
    with pytest.raises(SystemExit) as done:
        {"image_generation": image_generation, "pose_image_generation": pose_image_generation}.get(
            script, image_generation_with_reference
        ).main(["--help"])
    assert done.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "images per identity (default: 50)",
        "without effect on a CPU (default: 64)",
        "without effect",
        "(default: 75)",
    ):
        assert text in out


def test_published_commands_parse_with_published_defaults():
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
    args = image_generation.identity_parser().parse_args([*shared, *slice_])
    assert (args.image_quality, args.output_dir, args.start_class_id) == (None, "generated_images", 0)
    assert (args.mask_ratio_min, args.mask_ratio_max, args.mask_ratio_mu, args.mask_ratio_std) == (0.1, 1, 0.15, 0.25)
    args = pose_image_generation.pose_parser().parse_args([*shared, *slice_, "--pose", "45", "--image_quality", "25"])
    assert (args.pose, args.image_quality, args.output_dir) == (45, 25, "generated_pose_images")
    photos = ["--image_file", "path/of/the/image/file or folder", "--example", "10", "--name", "images-of-references"]
    args = image_generation_with_reference.reference_parser().parse_args([*shared, *photos])
    assert (args.feat_batch_size, args.output_dir, args.sigma) == (2000, "generated_images_ref", [0.2])
