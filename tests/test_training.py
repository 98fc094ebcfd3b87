"""vec2face.py end to end, on a few photos and the tiny preset."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from conftest import ROOT
from filled import filled, manifest
from processes import Script, run_by_hand, run_script
from test_training_data import content, training_lmdb, write_lmdb  # noqa: F401, a fixture

import image_generation
import vec2face
from models import PRESETS, Vec2Face, load_face_encoder, load_vec2face
from models.weight_files import sha256
from scripts import convert_weights, plot_training, shrink_weights
from utils.data.images import read_image
from utils.data.training_data import TrainingData
from utils.evaluation.reconstruction import reconstruct


def flags(demo, lmdb, output, *more):
    """Two epochs of four photos, a photo a step; the second epoch in the GAN phase."""
    return [
        "--train_source", lmdb, "--mask", four_of(lmdb), "--id_weights", demo.encoder, "--lpips_weights", "none",
        "--model", "vec2face_vit_tiny", "--batch_size", 1, "--epochs", 2, "--disc_start", 1, "--warmup_epochs", 0.5,
        "--blr", 0.02, "--workers", 0, "--device", "cpu", "--log_every", 2, "--no-use_amp", "--disc_width", 8,
        "--disc_noise", 0.1, "--output_dir", output, *more,
    ]  # fmt: skip


def four_of(lmdb):
    return lmdb.with_name("four.npy")


def run(*words):
    vec2face.main([str(word) for word in words])


def checkpoint(folder):
    return torch.load(folder / "checkpoint-last.pth", weights_only=True)


def assert_same_training(one, two):
    for name in ("model_vec2face", "model_disc", "model_ema"):
        assert one[name].keys() == two[name].keys()
        for key, value in one[name].items():
            assert torch.equal(value, two[name][key]), f"{name} {key}"
    assert one["step"] == two["step"]


@pytest.fixture(scope="module")
def uninterrupted(demo, training_lmdb, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("run")
    run(*flags(demo, training_lmdb, folder, "--ema", 0.9))
    return folder


def test_log_and_checkpoint(uninterrupted, demo, training_lmdb):  # noqa: F811
    lines = [json.loads(line) for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert {"pixel", "ssim", "token", "identity", "total", "gradient_norm", "images_per_second"} <= lines[0].keys()
    assert "discriminator" not in lines[1]
    assert {"discriminator", "adversarial", "gradient_norm_disc"} <= lines[2].keys()
    saved = checkpoint(uninterrupted)
    assert saved["step"] == 8
    assert saved["args"]["blr"] == 0.02
    assert saved["trained_on"]["encoder_sha256"] == sha256(demo.encoder)
    assert saved["trained_on"]["feature_norm"] == pytest.approx(
        TrainingData(training_lmdb, four_of(training_lmdb)).feature_norms()[0]
    )
    assert list(uninterrupted.glob("events.*"))
    load_vec2face(uninterrupted / "checkpoint-last.pth")


def test_averaged_weights_are_exported(uninterrupted, demo, tmp_path, capsys):
    last, averaged = uninterrupted / "checkpoint-last.pth", tmp_path / "averaged.pth"
    convert_weights.main([str(last), str(averaged), "--to", "own", "--ema"])
    assert load_vec2face(averaged).trained_on["encoder_sha256"] == sha256(demo.encoder)
    key = "expander.to_feature.weight"
    assert torch.equal(load_vec2face(averaged).state_dict()[key], checkpoint(uninterrupted)["model_ema"][key])
    with pytest.raises(SystemExit):
        convert_weights.main([str(demo.generator), str(tmp_path / "other.pth"), "--to", "own", "--ema"])
    assert "has no averaged weights" in capsys.readouterr().err


def test_curves_are_drawn(uninterrupted, tmp_path, capsys):
    plot_training.main([str(uninterrupted), "--output", str(tmp_path / "curves.png")])
    plot_training.main([str(uninterrupted)])
    assert (uninterrupted / "curves.png").read_bytes() == (tmp_path / "curves.png").read_bytes()
    with pytest.raises(SystemExit):
        plot_training.main([str(uninterrupted), "--output", str(tmp_path / "curves.png")])
    assert "curves.png: exists already; give --overwrite" in capsys.readouterr().err
    assert read_image(tmp_path / "curves.png").shape[0] > 100
    for log, message in (("", "empty"), ("{", "not the log")):
        (tmp_path / "log.jsonl").write_text(log)
        with pytest.raises(SystemExit):
            plot_training.main([str(tmp_path)])
        assert message in capsys.readouterr().err


def test_vectors_of_another_encoder_are_told(uninterrupted, demo, filled_files, tmp_path, capsys):
    """Generation knows from the checkpoint which face encoder the generator was trained with."""
    for encoder, told in ((demo.encoder, False), (filled_files["arcface_r50"], True)):
        words = ["--center_feature", demo.vectors, "--model_weights", uninterrupted / "checkpoint-last.pth"]
        words += ["--id_weights", encoder, "--quality_weights", encoder, "--max_iters", 1, "--start_end", "0:1"]
        words += ["--example", 1, "--batch_size", 1, "--output_dir", tmp_path, "--name", f"told-{told}"]
        image_generation.main([str(word) for word in words])
        assert ("trained on the features of another face encoder" in capsys.readouterr().out) == told


def test_held_out_photos_are_scored_each_epoch_and_change_nothing(demo, training_lmdb, tmp_path, capsys):  # noqa: F811
    np.save(tmp_path / "train.npy", np.arange(3))
    np.save(tmp_path / "held_out.npy", np.arange(6, 9))
    words = flags(demo, training_lmdb, tmp_path / "with", "--mask", tmp_path / "train.npy", "--ema", 0.9)
    run(*words, "--held_out", tmp_path / "held_out.npy")
    lines = [json.loads(line) for line in (tmp_path / "with" / "log.jsonl").read_text().splitlines()]
    scored = [line for line in lines if "held_out/psnr" in line]
    assert [line["step"] for line in scored] == [3, 6]
    assert all(line["held_out/photos"] == 3 and -1 <= line["held_out/id_similarity_mean"] <= 1 for line in scored)
    assert all(np.isfinite([x for x in line.values() if isinstance(x, int | float)]).all() for line in lines)
    run(*words, "--output_dir", tmp_path / "without")
    assert_same_training(checkpoint(tmp_path / "with"), checkpoint(tmp_path / "without"))
    with pytest.raises(SystemExit):
        run(*words, "--held_out", tmp_path / "train.npy", "--output_dir", tmp_path / "refused")
    assert "3 of its records are trained on" in capsys.readouterr().err


@pytest.mark.parametrize(("ema", "weights"), [(0.5, "averaged"), (0, "last")])
def test_held_out_scores_are_of_the_weights_that_are_exported(demo, training_lmdb, tmp_path, capsys, ema, weights):  # noqa: F811
    np.save(tmp_path / "held_out.npy", np.arange(6, 9))
    more = ["--held_out", tmp_path / "held_out.npy", "--score_every", 2, "--max_steps", 2, "--warmup_epochs", 0]
    run(*flags(demo, training_lmdb, tmp_path / "run", "--ema", ema, *more))
    assert f"held_out ({weights} weights): photos 3, psnr" in capsys.readouterr().out
    (line,) = (x for x in map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
               if "held_out/psnr" in x)  # fmt: skip
    assert line["held_out/weights"] == weights
    generator, psnr = load_vec2face(tmp_path / "run" / "checkpoint-last.pth"), {}
    with closing(TrainingData(training_lmdb, tmp_path / "held_out.npy")) as data:
        for name in ("model_vec2face", "model_ema"):
            if state := checkpoint(tmp_path / "run")[name]:
                generator.load_state_dict(state)
                psnr[name] = reconstruct(generator, load_face_encoder(demo.encoder), data, range(3), 1)[0]["psnr"]
    exported = psnr.pop("model_ema" if ema else "model_vec2face")
    assert line["held_out/psnr"] == pytest.approx(exported, abs=0.01)
    assert all(abs(other - exported) > 0.02 for other in psnr.values())


def test_killed_and_resumed_bitwise(demo, training_lmdb, uninterrupted, tmp_path):  # noqa: F811
    words = flags(demo, training_lmdb, tmp_path, "--ema", 0.9, "--save_every", 1)
    process = Script("vec2face.py", *words)
    while process.alive() and "step 4/" not in process.printed():  # the checkpoint of step 3 is there by then
        time.sleep(0.01)
    process.signal(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    assert 0 < checkpoint(tmp_path)["step"] < 8
    run(*words, "--resume", tmp_path)
    assert_same_training(checkpoint(tmp_path), checkpoint(uninterrupted))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_two_ranks_killed_and_resumed_bitwise(demo, training_lmdb, tmp_path):  # noqa: F811
    """Resumed without a launcher, as on two machines of which only that of rank 0 has the checkpoint."""
    words = flags(demo, training_lmdb, tmp_path / "killed", "--ema", 0.9, "--save_every", 1)
    job = Script("vec2face.py", *words, ranks=2)
    while job.alive() and not (tmp_path / "killed" / "checkpoint-last.pth").exists():
        time.sleep(0.01)  # of the first of four steps
    job.signal(signal.SIGKILL, group=True)  # the launcher and both ranks
    job.wait()
    assert 0 < checkpoint(tmp_path / "killed")["step"] < 4
    local = [tmp_path / name for name in ("killed", "empty")]
    resumed = [[*words, "--output_dir", folder, "--resume", folder] for folder in local]
    assert [result.returncode for result in run_by_hand("vec2face.py", *resumed)] == [0, 0]
    assert not list(local[1].glob("*"))
    words = flags(demo, training_lmdb, tmp_path / "whole", "--ema", 0.9)
    run_script("vec2face.py", *words, ranks=2)
    assert_same_training(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole"))


def test_a_full_disk_leaves_the_last_checkpoint(demo, training_lmdb, uninterrupted, tmp_path):  # noqa: F811
    """A limit on the size of files stands for the full disk."""
    shutil.copy(uninterrupted / "checkpoint-last.pth", tmp_path)
    before = (tmp_path / "checkpoint-last.pth").read_bytes()
    words = flags(demo, training_lmdb, tmp_path, "--ema", 0.9, "--epochs", 3, "--resume", tmp_path)
    result = run_script("vec2face.py", *words, largest_file=50 << 20, check=False)
    assert result.returncode == 2
    assert "checkpoint-last.pth: cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "checkpoint-last.pth").read_bytes() == before
    assert not list(tmp_path.glob("*.next"))
    run(*words)  # room again: it goes on
    assert checkpoint(tmp_path)["step"] == 12


def test_published_command(demo, training_lmdb, tmp_path):  # noqa: F811
    """From a folder laid out as the published command expects, with a small preset and one step of 4."""
    folder = tmp_path / "lmdb_dataset" / "WebFace4M"
    folder.mkdir(parents=True)
    os.symlink(training_lmdb, folder / "WebFace4M.lmdb")
    os.symlink(four_of(training_lmdb), folder / "50000_ids_1022444_ims.npy")
    (tmp_path / "weights").mkdir()
    os.symlink(demo.encoder, tmp_path / "weights" / "arcface-r100-glint360k.pth")
    torch.save(filled(manifest("vgg16_features")), tmp_path / "weights" / "vgg16.pth")
    words = (
        "--rep_drop_prob 0.1 --use_rep --batch_size 4 --model vec2face_vit_tiny --epochs 100 --disc_start 80 "
        "--warmup_epochs 5 --blr 4e-5 --output_dir workspace/pixel_generator/ "
        "--train_source ./lmdb_dataset/WebFace4M/WebFace4M.lmdb "
        "--mask lmdb_dataset/WebFace4M/50000_ids_1022444_ims.npy --accum_iter 1"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    result = subprocess.run(
        [*torchrun, ROOT / "vec2face.py", *words.split(), "--max_steps", "1", "--log_every", "1"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "--use_rep, --rep_drop_prob: without effect" in result.stdout
    folder = tmp_path / "workspace" / "pixel_generator"
    line = json.loads((folder / "log.jsonl").read_text())
    assert line["step"] == 1
    assert line["lpips"] > 0
    assert checkpoint(folder)["args"]["epochs"] == 100


def test_one_step_of_the_base_model(training_lmdb, filled_files, tmp_path):  # noqa: F811
    """Full size: the published preset, IResNet-100, LPIPS and the discriminator. Every parameter moves."""
    torch.save(filled(manifest("vgg16_features")), tmp_path / "vgg16.pth")
    run(
        "--train_source", training_lmdb, "--id_weights", filled_files["arcface_r100"], "--lpips_weights",
        tmp_path / "vgg16.pth", "--batch_size", 1, "--epochs", 1, "--mask_ratio_max", 0.9, "--disc_start", 0,
        "--max_steps", 1, "--workers", 0, "--warmup_epochs", 0, "--blr", 0.1, "--device", "cpu", "--log_every", 1,
        "--output_dir", tmp_path / "run",
    )  # fmt: skip
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert {"pixel", "ssim", "token", "identity", "lpips", "adversarial", "discriminator"} <= line.keys()
    assert all(np.isfinite(value) for value in line.values() if not isinstance(value, dict))
    saved = checkpoint(tmp_path / "run")
    assert saved["model"] == "vec2face_vit_base_patch16"
    moved = saved["optimizer_vec2face"]["state"]
    assert all(state["exp_avg"].any() for state in moved.values())
    with torch.device("meta"):
        assert len(moved) == len(list(Vec2Face(PRESETS[saved["model"]]).parameters()))
    shutil.rmtree(tmp_path / "run")  # 2.9 GB


def test_a_rank_without_data(demo, training_lmdb, tmp_path):  # noqa: F811
    words = flags(demo, training_lmdb, tmp_path, "--batch_size", 3)
    result = run_script("vec2face.py", *words, ranks=2, check=False)
    assert result.returncode
    assert "4 records are fewer than --batch_size 3 x 2 processes" in result.stderr


def test_sigterm_saves_and_exits_0(demo, training_lmdb, uninterrupted, tmp_path, capsys):  # noqa: F811
    """As a cluster sends it: to all processes of the job, those that read data too."""
    words = [*flags(demo, training_lmdb, tmp_path, "--ema", 0.9), "--workers", 1]
    process = Script("vec2face.py", *words)
    while process.alive() and "step 2/" not in process.printed():
        time.sleep(0.01)
    process.signal(signal.SIGTERM, group=True)
    assert process.wait().returncode == 0
    assert 2 <= checkpoint(tmp_path)["step"] < 8
    shrink = [str(tmp_path / "checkpoint-last.pth"), str(tmp_path / "small.pth"), "--ema", "--finished"]
    with pytest.raises(SystemExit):
        shrink_weights.main(shrink)
    assert "was stopped at step" in capsys.readouterr().err
    assert not (tmp_path / "small.pth").exists()
    run(*words, "--resume", tmp_path / "checkpoint-last.pth")
    assert_same_training(checkpoint(tmp_path), checkpoint(uninterrupted))
    shrink_weights.main(shrink)
    assert (tmp_path / "small.pth").exists()


def test_the_gan_begins_within_an_epoch(demo, training_lmdb, tmp_path):  # noqa: F811
    run(*flags(demo, training_lmdb, tmp_path, "--disc_start", 0.5, "--max_steps", 3, "--log_every", 1,
               "--adversarial", "lsgan", "--detail_weight", 1))  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["discriminator" in line for line in lines] == [False, False, True]
    assert lines[2]["adversarial"] >= 0  # a squared difference
    assert all(line["detail"] > 0 for line in lines)


def test_the_image_decoder_alone_can_be_trained_and_then_all(demo, training_lmdb, tmp_path):  # noqa: F811
    begin = flags(demo, training_lmdb, tmp_path, "--start_from", demo.generator)
    run(*begin, "--fmae_lr", 0, "--max_steps", 2)
    start, halfway = load_vec2face(demo.generator).state_dict(), checkpoint(tmp_path)
    for key, value in halfway["model_vec2face"].items():
        assert torch.equal(value, start[key]) != key.startswith("image_decoder."), key
    run(*begin, "--max_steps", 4, "--resume", tmp_path)
    for key, value in checkpoint(tmp_path)["model_vec2face"].items():
        assert not torch.equal(value, halfway["model_vec2face"][key]), key


def test_a_generator_with_other_groups_is_no_start(demo, training_lmdb, tmp_path, capsys):  # noqa: F811
    content = torch.load(demo.generator, weights_only=True)
    del content["architecture"]
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(SystemExit):
        run(*flags(demo, training_lmdb, tmp_path / "run", "--start_from", tmp_path / "old.pth"))
    assert "old.pth: its image decoder normalises in 32 groups" in capsys.readouterr().err


def test_it_learns(demo, training_lmdb, tmp_path):  # noqa: F811
    words = flags(demo, training_lmdb, tmp_path, "--epochs", 8, "--disc_start", 99, "--batch_size", 2,
                  "--augmentation", "randcrop")  # fmt: skip
    run(*words, "--use_amp")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["pixel"] < 0.75 * lines[0]["pixel"]
    assert lines[-1]["total"] < lines[0]["total"]


def test_accumulation_updates_every_second_batch(demo, training_lmdb, tmp_path):  # noqa: F811
    run(*flags(demo, training_lmdb, tmp_path, "--accum_iter", 2, "--epochs", 1, "--max_steps", 3))  # one update fits
    assert checkpoint(tmp_path)["step"] == 2
    run(*flags(demo, training_lmdb, tmp_path, "--accum_iter", 2, "--epochs", 1, "--resume", tmp_path))
    saved = checkpoint(tmp_path)
    assert saved["step"] == 4
    assert saved["optimizer_vec2face"]["state"][0]["step"] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train_source", "nowhere.lmdb"], "no such LMDB"),
        (["--batch_size", "5"], "4 records are fewer than --batch_size 5"),
        (["--rep_dim", "256"], "--rep_dim says 256"),
        (["--id_weights", "nowhere.pth"], "no such weight file"),
        (["--lpips_weights", "nowhere.pth"], "fetch https://download.pytorch.org/models/vgg16-397923af.pth"),
        (["--disc_width", "12"], "must be a multiple of 8"),
        (["--resume", "nowhere.pth"], "no such file or folder"),
        (["--mask_ratio_min", "2"], "mask ratios"),
        (["--output_dir", "README.md"], "cannot write here"),
    ],
)
def test_bad_input(demo, training_lmdb, tmp_path, capsys, more, message):  # noqa: F811
    with pytest.raises(SystemExit) as error:
        run(*flags(demo, training_lmdb, tmp_path, *more))
    assert error.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in line


def test_resume_from_the_wrong_file(demo, training_lmdb, uninterrupted, tmp_path, capsys):  # noqa: F811
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


def test_compiling_without_a_compiler(demo, training_lmdb, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("CXX", "nowhere++")
    with pytest.raises(SystemExit):
        run(*flags(demo, training_lmdb, tmp_path, "--compile"))
    assert "needs a C++ compiler, and there is no nowhere++" in capsys.readouterr().err


def test_broken_records_end_the_run_past_the_limit(demo, training_lmdb, tmp_path, capsys):  # noqa: F811
    records = content(training_lmdb)
    records[b"3"] = b"\x00"
    path = write_lmdb(tmp_path / "x.lmdb", records)
    np.save(four_of(path), np.arange(4))
    run(*flags(demo, path, tmp_path / "a", "--epochs", 1, "--batch_size", 4))
    assert "skipped record 3: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(*flags(demo, path, tmp_path / "b", "--epochs", 1, "--batch_size", 4, "--max_bad_records", 0))
    assert "more than --max_bad_records 0" in capsys.readouterr().err


def test_a_process_with_a_broken_record_ends_all_and_says_why(demo, training_lmdb, tmp_path):  # noqa: F811
    records = content(training_lmdb)
    records[b"3"] = b"\x00"
    path = write_lmdb(tmp_path / "x.lmdb", records)
    np.save(four_of(path), np.arange(4))
    words = flags(demo, path, tmp_path / "run", "--max_bad_records", 0)
    result = run_script("vec2face.py", *words, ranks=2, check=False)
    assert result.returncode
    assert result.stderr.count("more than --max_bad_records 0 broken records") == 1
    assert "another process" not in result.stderr
    assert "ended without a message" not in result.stderr


def test_a_loss_that_is_not_finite_names_step_term_and_records(demo, training_lmdb, tmp_path, capsys):  # noqa: F811
    with pytest.raises(SystemExit):
        run(*flags(demo, training_lmdb, tmp_path, "--lr", 1e30, "--clip_grad", 1e30, "--warmup_epochs", 0))
    error = capsys.readouterr().err
    assert "step 1: the" in error
    assert "records of the batch" in error


def test_published_command_parses():
    words = (
        "--rep_drop_prob 0.1 --use_rep --batch_size 32 --model vec2face_vit_base_patch16 --epochs 100 --disc_start 80 "
        "--warmup_epochs 5 --blr 4e-5 --output_dir workspace/pixel_generator/ --accum_iter 1 "
        "--train_source ./lmdb_dataset/WebFace4M/WebFace4M.lmdb --mask lmdb_dataset/WebFace4M/50000_ids_1022444_ims.npy"
    )
    args = vec2face.training_parser().parse_args(words.split())
    assert (args.clip_grad, args.seed, args.workers, args.use_amp, args.amp_dtype) == (2, 0, 4, True, "float16")
    assert (args.mask_ratio_min, args.mask_ratio_mu) == (0.5, 0.75)
