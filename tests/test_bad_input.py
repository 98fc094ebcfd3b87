"""What users get wrong: one clear line, a non-zero exit, and everything that was there left alone."""

import argparse
import os
import pickle
import subprocess
import sys
from pathlib import Path

from utils.cli.command import command as as_command

import numpy as np
import pytest
import torch
from generation_runs import command
from paths import PHOTOS, ROOT, files_of

import image_generation
import image_generation_with_reference
import pose_image_generation
from models import load_face_encoder, load_vec2face
from models.errors import UserError
from models.weight_files import load_file, save_file


class Hostile:
    """Unpickling this runs a command."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def refused(main, flags, capsys):
    """Run a script that must refuse: the message it ends with."""
    with pytest.raises(SystemExit) as error:
        main([str(flag) for flag in flags])
    assert error.value.code not in (0, None)
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    return output.err.strip().splitlines()[-1]


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
def test_flags(demo, flags, message, tmp_path, capsys):
    line = refused(image_generation.main, [*command(demo), "--output_dir", tmp_path / "out", *flags], capsys)
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pose", [["--pose", "95"], ["--pose", "-30"], ["--pose", "-91", "--signed_pose"]])
def test_pose_out_of_range(demo, pose, tmp_path, capsys):
    line = refused(pose_image_generation.main, [*command(demo), "--output_dir", tmp_path, *pose], capsys)
    assert "a yaw lies between" in line


def test_vectors_with_a_bad_row(demo, tmp_path, capsys):
    vectors = np.load(demo.vectors)
    vectors[17, 3] = np.nan
    np.save(tmp_path / "v.npy", vectors)
    flags = [*command(demo), "--output_dir", tmp_path / "out", "--center_feature", tmp_path / "v.npy"]
    assert "row 17 is NaN" in refused(image_generation.main, flags, capsys)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_kind(demo, tmp_path, capsys):
    line = refused(image_generation.main, [*command(demo), "--model_weights", demo.encoder], capsys)
    assert str(demo.encoder) in line
    assert "not a Vec2Face generator" in line
    assert "latent_prior_proj_f.weight" in line
    assert "conv1.weight" in line
    line = refused(image_generation.main, [*command(demo), "--id_weights", demo.generator], capsys)
    assert "not a plain file of weights" in line
    flags = [*command(demo), "--pose_weights", demo.encoder]
    line = refused(pose_image_generation.main, flags, capsys)
    assert "not the weights of a 6DRepNet" in line
    assert "missing layer0.rbr_reparam.weight" in line


def test_weights_with_other_keys_or_shapes(demo, tmp_path):
    state = torch.load(demo.generator, weights_only=True)["model_vec2face"]
    removed = {key: value for key, value in state.items() if key != "blocks.2.attn.qkv.weight"}
    reshaped = state | {"norm.weight": torch.ones(7)}
    added = state | {"surprise.weight": torch.ones(7)}
    broken = state | {"norm.weight": torch.full((256,), torch.nan)}
    for content, message in (
        (removed, "missing blocks.2.attn.qkv.weight"),
        (reshaped, r"norm.weight is \(7,\) instead of \(256,\)"),
        (added, "unexpected surprise.weight"),
        (broken, "NaN or infinite weights in norm.weight"),
    ):
        torch.save({"model_vec2face": content}, tmp_path / "w.pth")
        with pytest.raises(UserError, match=f"w.pth: .*{message}"):
            load_vec2face(tmp_path / "w.pth")


def test_damaged_weights(demo, tmp_path):
    data = Path(demo.encoder).read_bytes()
    path = tmp_path / "w.pth"
    for content in (b"", b"hello", data[: len(data) // 2], data[:-3000]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a weight file"):
            load_face_encoder(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_weights_do_not_run(legacy, tmp_path, capsys, demo):
    proof, path = tmp_path / "proof", tmp_path / "w.pth"
    torch.save({"model_vec2face": Hostile(proof)}, path, _use_new_zipfile_serialization=not legacy)
    line = refused(image_generation.main, [*command(demo), "--model_weights", path], capsys)
    assert "holds code" in line
    path.write_bytes(pickle.dumps(Hostile(proof)))
    with pytest.raises(UserError, match=r"w\.pth"):
        load_file(path)
    assert not proof.exists()


def test_released_checkpoints_with_arguments_load(demo, tmp_path):
    content = torch.load(demo.generator, weights_only=True)
    content["args"] = argparse.Namespace(batch_size=32, blr=4e-5)
    torch.save(content, tmp_path / "checkpoint.pth")
    load_vec2face(tmp_path / "checkpoint.pth")


def test_parallel_prefix_is_dropped(demo, tmp_path):
    state = torch.load(demo.encoder, weights_only=True)["state_dict"]
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "w.pth")
    images = torch.rand(1, 3, 112, 112)
    assert torch.equal(load_face_encoder(tmp_path / "w.pth")(images), load_face_encoder(demo.encoder)(images))


def reference_flags(demo, source, tmp_path):
    return [
        "--image_file",
        source,
        *demo.models,
        "--example",
        1,
        "--batch_size",
        2,
        "--name",
        "r",
        "--output_dir",
        tmp_path / "o",
    ]


def test_nothing_among_the_photos(demo, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    main = image_generation_with_reference.main
    assert "no images in it" in refused(main, reference_flags(demo, folder, tmp_path), capsys)
    (folder / "notes.txt").write_text("hello")
    assert "no images in it" in refused(main, reference_flags(demo, folder, tmp_path), capsys)
    assert "no such file" in refused(main, reference_flags(demo, tmp_path / "nowhere", tmp_path), capsys)
    (folder / "torn.jpg").write_bytes((PHOTOS / "person1" / "0.jpg").read_bytes()[:500])
    assert "none of the 1 images could be used" in refused(main, reference_flags(demo, folder, tmp_path), capsys)


def test_list_with_a_missing_photo(demo, tmp_path, capsys):
    (tmp_path / "list.txt").write_text(f"{PHOTOS / 'person1' / '0.jpg'}\n{tmp_path / 'gone.jpg'}\n")
    flags = reference_flags(demo, tmp_path / "list.txt", tmp_path)
    image_generation_with_reference.main([str(flag) for flag in flags])
    assert "gone.jpg" in capsys.readouterr().out


def test_output_folder_that_cannot_be_made(demo, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    line = refused(image_generation.main, [*command(demo), "--output_dir", tmp_path / "file"], capsys)
    assert "cannot write" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_someone_elses_folder(demo, tmp_path, capsys):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        line = refused(image_generation.main, [*command(demo), "--output_dir", tmp_path, *more], capsys)
        assert "not ours" in line
    assert files_of(tmp_path) == {"test/mine.txt": b"mine"}


def test_saving_weights_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "w.pth"
    save_file({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match=r".*"):
        save_file({"a": lambda: None}, path)  # cannot be pickled
    assert path.read_bytes() == before
    assert load_file(path)["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "error: out of memory on the GPU; give a smaller --"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "error: out of memory; give a smaller --"),
    ],
)
def test_out_of_memory_is_one_line(error, told, capsys):
    def main(argv=None):
        raise error

    with pytest.raises(SystemExit):
        as_command(main)([])
    printed = capsys.readouterr().err
    assert printed.startswith(told)
    assert printed.count("\n") == 1


def test_a_bug_is_no_user_error():
    def main(argv=None):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        as_command(main)([])


@pytest.mark.parametrize("script", ["compare_fr", "convert_dataset", "inspect_dataset", "small_portion_training_mask"])
def test_scripts_without_models_start_without_torch(script):
    words = [sys.executable, "-c", f"import sys, scripts.{script}; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0
