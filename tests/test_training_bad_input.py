"""Wrong input of vec2face.py: one clear line and a non-zero exit."""

import numpy as np
import pytest
import torch
from generator_training import flags, four_of, run
from training_lmdbs import content, write_lmdb


def test_starting_from_a_generator_with_other_group_norms_is_refused(demo, training_lmdb, tmp_path, capsys):
    content = torch.load(demo.generator, weights_only=True)
    del content["architecture"]
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(SystemExit):
        run(*flags(demo, training_lmdb, tmp_path / "run", "--start_from", tmp_path / "old.pth"))
    assert "old.pth: its image decoder normalises in 32 groups" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train_source", "nowhere.lmdb"], "no such LMDB"),
        (["--batch_size", "5"], "4 records are fewer than --batch_size 5"),
        (["--rep_dim", "256"], "--rep_dim says 256"),
        (["--id_weights", "nowhere.pth"], "no such weight file"),
        (["--lpips_weights", "nowhere.pth"], "download https://download.pytorch.org/models/vgg16-397923af.pth"),
        (["--disc_width", "12"], "must be a multiple of 8"),
        (["--resume", "nowhere.pth"], "no such file or folder"),
        (["--mask_ratio_min", "2"], "mask ratios"),
        (["--output_dir", "README.md"], "cannot write here"),
    ],
)
def test_bad_input_is_one_clear_line(demo, training_lmdb, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as error:
        run(*flags(demo, training_lmdb, tmp_path, *more))
    assert error.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in line


def test_resuming_from_a_file_that_is_no_matching_checkpoint_is_refused(
    demo, training_lmdb, uninterrupted, tmp_path, capsys
):
    data = (uninterrupted / "checkpoint-last.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(data[: len(data) // 2])
    for path, more, message in (
        (demo.generator, [], f"--start_from {demo.generator}"),
        (tmp_path / "half.pth", [], "truncated"),
        (uninterrupted, ["--model", "vec2face_vit_base_patch16"], "holds a vec2face_vit_tiny"),
    ):
        with pytest.raises(SystemExit):
            run(*flags(demo, training_lmdb, tmp_path, "--resume", path, *more))
        assert message in capsys.readouterr().err


def test_compiling_without_a_compiler_is_refused(demo, training_lmdb, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "nowhere++")
    with pytest.raises(SystemExit):
        run(*flags(demo, training_lmdb, tmp_path, "--compile"))
    assert "needs a C++ compiler, and there is no nowhere++" in capsys.readouterr().err


def test_broken_records_end_the_run_past_the_limit(demo, training_lmdb, tmp_path, capsys):
    records = content(training_lmdb)
    records[b"3"] = b"\x00"
    path = write_lmdb(tmp_path / "x.lmdb", records)
    np.save(four_of(path), np.arange(4))
    run(*flags(demo, path, tmp_path / "a", "--epochs", 1, "--batch_size", 4))
    assert "skipped record 3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(*flags(demo, path, tmp_path / "b", "--epochs", 1, "--batch_size", 4, "--max_bad_records", 0))
    assert "more than --max_bad_records 0" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_names_step_term_and_records(demo, training_lmdb, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(*flags(demo, training_lmdb, tmp_path, "--lr", 1e30, "--clip_grad", 1e30, "--warmup_epochs", 0))
    error = capsys.readouterr().err
    assert "step 1: the" in error
    assert "records of the batch" in error
