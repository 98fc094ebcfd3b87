"""Wrong input of the generation scripts: one clear line, a non-zero exit, and every file left as it was."""

import numpy as np
import pytest
from commands import refused
from generation_runs import command, reference_flags
from paths import PHOTOS, files_of

import image_generation
import image_generation_with_reference
import pose_image_generation


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--start_end", "5"], "FIRST:END"),
        (["--start_end", "8:2"], "0 <= FIRST < END"),
        (["--start_end", "0:500"], "there are 200"),
        (["--batch_size", "0"], "at least 1"),
        (["--example", "-1"], "at least 1"),
        (["--name", "../outside"], "plain folder name"),
        (["--name", "a/b"], "plain folder name"),
        (["--name", ""], "plain folder name"),
        (["--model", "vec2face_vit_base_patch16"], "vec2face_vit_tiny"),
        (["--rep_dim", "256"], "length 512"),
        (["--mask_ratio_min", "0.9", "--mask_ratio_max", "0.2"], "min <= max"),
        (["--sigma", "-1"], "between 0 and 100"),
        (["--noise", "cone", "--lower_bound", "0"], "between 0 and 1"),
        (["--noise", "cone", "--lower_bound", "1"], "between 0 and 1"),
        (["--noise", "cone", "--lower_bound", "nan"], "between 0 and 1"),
        (["--lower_bound", "0.6"], "belongs to --noise cone"),
        (["--noise", "cone", "--sigma", "0.5"], "belongs to --noise gaussian"),
        (["--jpeg_quality", "101"], "between 1 and 100"),
        (["--device", "cuda:7"], "CUDA devices"),
        (["--device", "toaster"], "not a device"),
        (["--precision", "fp16"], "needs a GPU"),
        (["--center_feature", "nowhere.npy"], "no such file"),
        (["--model_weights", "nowhere.pth"], "download_vec2face_weights.py"),
        (["--id_weights", "nowhere.pth"], "nowhere.pth: no such weight file"),
        (["--max_iters", "0"], "at least 1"),
        (["--image_quality", "nan"], "must be a number"),
        (["--mask_ratio_std", "inf"], "must be a number"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(demo, flags, message, tmp_path, capsys):
    line = refused(image_generation.main, [*command(demo), "--output_dir", tmp_path / "out", *flags], capsys)
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pose", [["--pose", "95"], ["--pose", "-30"], ["--pose", "-91", "--signed_pose"]])
def test_a_pose_out_of_range_is_refused(demo, pose, tmp_path, capsys):
    line = refused(pose_image_generation.main, [*command(demo), "--output_dir", tmp_path, *pose], capsys)
    assert "a yaw lies between" in line


def test_a_vector_that_is_not_finite_is_named_by_its_row(demo, tmp_path, capsys):
    vectors = np.load(demo.vectors)
    vectors[17, 3] = np.nan
    np.save(tmp_path / "v.npy", vectors)
    flags = [*command(demo), "--output_dir", tmp_path / "out", "--center_feature", tmp_path / "v.npy"]
    assert "row 17 is NaN" in refused(image_generation.main, flags, capsys)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_kind_are_refused(demo, tmp_path, capsys):
    line = refused(image_generation.main, [*command(demo), "--model_weights", demo.encoder], capsys)
    assert str(demo.encoder) in line
    assert "not a Vec2Face generator" in line
    assert "latent_prior_proj_f.weight" in line
    assert "conv1.weight" in line
    line = refused(image_generation.main, [*command(demo), "--id_weights", demo.generator], capsys)
    assert "not a state dict" in line
    flags = [*command(demo), "--pose_weights", demo.encoder]
    line = refused(pose_image_generation.main, flags, capsys)
    assert "not the weights of a 6DRepNet" in line
    assert "missing layer0.rbr_reparam.weight" in line


def test_a_folder_without_a_usable_photo_is_refused(demo, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    main = image_generation_with_reference.main
    assert "no images in it" in refused(main, reference_flags(demo, folder, tmp_path), capsys)
    (folder / "notes.txt").write_text("hello")
    assert "no images in it" in refused(main, reference_flags(demo, folder, tmp_path), capsys)
    assert "no such file" in refused(main, reference_flags(demo, tmp_path / "nowhere", tmp_path), capsys)
    (folder / "torn.jpg").write_bytes((PHOTOS / "person1" / "0.jpg").read_bytes()[:500])
    assert "none of the 1 images could be used" in refused(main, reference_flags(demo, folder, tmp_path), capsys)


def test_a_missing_photo_of_a_list_is_named(demo, tmp_path, capsys):
    (tmp_path / "list.txt").write_text(f"{PHOTOS / 'person1' / '0.jpg'}\n{tmp_path / 'gone.jpg'}\n")
    flags = reference_flags(demo, tmp_path / "list.txt", tmp_path)
    image_generation_with_reference.main([str(flag) for flag in flags])
    assert "gone.jpg" in capsys.readouterr().out


def test_an_output_folder_that_cannot_be_made_is_refused(demo, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    line = refused(image_generation.main, [*command(demo), "--output_dir", tmp_path / "file"], capsys)
    assert "cannot write" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_other_files_is_left_alone(demo, tmp_path, capsys):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        line = refused(image_generation.main, [*command(demo), "--output_dir", tmp_path, *more], capsys)
        assert "not a dataset to add to" in line
    assert files_of(tmp_path) == {"test/mine.txt": b"mine"}
