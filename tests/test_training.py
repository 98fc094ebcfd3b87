"""vec2face.py end to end, on a few photos and the tiny preset."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import torch
from filled import filled, manifest
from generator_training import assert_same_training, checkpoint, flags, four_of, run
from paths import ROOT

import image_generation
import vec2face
from models import PRESETS, Vec2Face, load_face_encoder, load_vec2face
from models.weight_files import sha256
from scripts import convert_weights, plot_training
from utils.data.images import read_image
from utils.data.training_data import TrainingData
from utils.evaluation.reconstruction import reconstruct


def test_a_training_writes_its_log_and_a_checkpoint_that_loads(uninterrupted, demo, training_lmdb):
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


def test_generation_warns_when_its_face_encoder_is_not_that_of_the_training(
    uninterrupted, demo, filled_files, tmp_path, capsys
):
    """Generation knows from the checkpoint which face encoder the generator was trained with."""
    for encoder, told in ((demo.encoder, False), (filled_files["arcface_r50"], True)):
        words = ["--center_feature", demo.vectors, "--model_weights", uninterrupted / "checkpoint-last.pth"]
        words += ["--id_weights", encoder, "--quality_weights", encoder, "--max_iters", 1, "--start_end", "0:1"]
        words += ["--example", 1, "--batch_size", 1, "--output_dir", tmp_path, "--name", f"told-{told}"]
        image_generation.main([str(word) for word in words])
        assert ("trained on the features of another face encoder" in capsys.readouterr().out) == told


@pytest.mark.slow
def test_held_out_photos_are_scored_each_epoch_and_change_nothing(demo, training_lmdb, tmp_path, capsys):
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
def test_held_out_scores_are_of_the_weights_that_are_exported(demo, training_lmdb, tmp_path, capsys, ema, weights):
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


def test_the_published_command_runs(demo, training_lmdb, tmp_path):
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


@pytest.mark.slow
def test_one_step_of_the_base_model_moves_every_parameter(training_lmdb, filled_files, tmp_path):
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


def test_the_gan_begins_within_an_epoch(demo, training_lmdb, tmp_path):
    run(*flags(demo, training_lmdb, tmp_path, "--disc_start", 0.5, "--max_steps", 3, "--log_every", 1,
               "--adversarial", "lsgan", "--detail_weight", 1))  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["discriminator" in line for line in lines] == [False, False, True]
    assert lines[2]["adversarial"] >= 0  # a squared difference
    assert all(line["detail"] > 0 for line in lines)


def test_the_image_decoder_alone_can_be_trained_and_then_all(demo, training_lmdb, tmp_path):
    begin = flags(demo, training_lmdb, tmp_path, "--start_from", demo.generator)
    run(*begin, "--fmae_lr", 0, "--max_steps", 2)
    start, halfway = load_vec2face(demo.generator).state_dict(), checkpoint(tmp_path)
    for key, value in halfway["model_vec2face"].items():
        assert torch.equal(value, start[key]) != key.startswith("image_decoder."), key
    run(*begin, "--max_steps", 4, "--resume", tmp_path)
    for key, value in checkpoint(tmp_path)["model_vec2face"].items():
        assert not torch.equal(value, halfway["model_vec2face"][key]), key


def test_training_lowers_the_loss(demo, training_lmdb, tmp_path):
    words = flags(demo, training_lmdb, tmp_path, "--epochs", 8, "--disc_start", 99, "--batch_size", 2,
                  "--augmentation", "randcrop")  # fmt: skip
    run(*words, "--use_amp")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["pixel"] < 0.75 * lines[0]["pixel"]
    assert lines[-1]["total"] < lines[0]["total"]


def test_with_two_accumulated_batches_the_weights_move_every_second_step(demo, training_lmdb, tmp_path):
    run(*flags(demo, training_lmdb, tmp_path, "--accum_iter", 2, "--epochs", 1, "--max_steps", 3))  # one update fits
    assert checkpoint(tmp_path)["step"] == 2
    run(*flags(demo, training_lmdb, tmp_path, "--accum_iter", 2, "--epochs", 1, "--resume", tmp_path))
    saved = checkpoint(tmp_path)
    assert saved["step"] == 4
    assert saved["optimizer_vec2face"]["state"][0]["step"] == 2


def test_the_published_command_has_the_published_defaults():
    words = (
        "--rep_drop_prob 0.1 --use_rep --batch_size 32 --model vec2face_vit_base_patch16 --epochs 100 --disc_start 80 "
        "--warmup_epochs 5 --blr 4e-5 --output_dir workspace/pixel_generator/ --accum_iter 1 "
        "--train_source ./lmdb_dataset/WebFace4M/WebFace4M.lmdb --mask lmdb_dataset/WebFace4M/50000_ids_1022444_ims.npy"
    )
    args = vec2face.training_parser().parse_args(words.split())
    assert (args.clip_grad, args.seed, args.workers, args.use_amp, args.amp_dtype) == (2, 0, 4, True, "float16")
    assert (args.mask_ratio_min, args.mask_ratio_mu) == (0.5, 0.75)
