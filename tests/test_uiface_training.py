"""uiface.py: what it trains, its averaged weights and learning rate, resuming, and bad input."""

import json
import signal

import numpy as np
import pytest
import torch
from commands import refused, run
from generation_runs import manifest
from processes import Script, run_script
from uiface_models import small_autoencoder, small_unet
from uiface_training import assert_same_training, checkpoint, flags

import uiface
import uiface_image_generation
from models.uiface import PRESETS, load_uiface_unet, save_uiface_vq
from models.weight_files import sha256


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vq") / "vq.pth"
    save_uiface_vq(small_autoencoder(), path)
    return path


@pytest.fixture(scope="module")
def words(training_lmdb, autoencoder):
    """The flags of a training of four steps, with averaged weights that a few steps change."""

    def of(output, *more):
        return flags(training_lmdb, output, "--autoencoder", autoencoder, "--ema", 0.5, "--lr", 1e-3, *more)

    return of


@pytest.fixture(scope="module")
def finished(words, training_lmdb, tmp_path_factory):
    """The folder of a training that has run to its end, with held-out photos."""
    folder = tmp_path_factory.mktemp("finished")
    held_out = training_lmdb.with_name("two_others.npy")
    np.save(held_out, np.array([4, 8]))
    run(uiface.main, *words(folder, "--held_out", held_out, "--score_every", 3, "--sheet_steps", 2))
    return folder


@pytest.fixture(scope="module")
def stopped(words, tmp_path_factory):
    """The checkpoint of the same training after three of its four steps; its folder is its ``"folder"``."""
    folder = tmp_path_factory.mktemp("stopped")
    run(uiface.main, *words(folder, "--max_steps", 3))
    return checkpoint(folder) | {"folder": folder}


def test_the_result_has_the_averaged_weights_and_says_what_it_was_trained_on(finished, autoencoder, demo):
    content, result = checkpoint(finished), checkpoint(finished, "model.pth")
    assert content["step"] == 4
    assert all(torch.equal(result["model_uiface"][key], value) for key, value in content["model_ema"].items())
    assert not any(name in result for name in ("optimizer", "model_ema", "args"))
    net = load_uiface_unet(finished / "model.pth")
    assert net.architecture == PRESETS["uiface_tiny"]
    assert net.architecture.latent_side == 28
    assert net.trained_on["encoder_sha256"] == sha256(demo.encoder)
    assert net.autoencoder_sha256 == sha256(autoencoder)
    loaded = load_uiface_unet(finished / "checkpoint-last.pth")  # the averaged weights, too
    assert torch.equal(loaded.final.weight, content["model_ema"]["final.weight"])


def test_the_average_follows_the_weights_with_its_decay(stopped, finished):
    """The released average never moves. Here the last step of it is known: half of the way to the new weights."""
    before, after = stopped["model_ema"], checkpoint(finished)
    for key, value in after["model_ema"].items():
        assert torch.allclose(value, torch.lerp(before[key], after["model_uiface"][key], 0.5), atol=1e-7)
    assert not torch.equal(before["final.weight"], after["model_ema"]["final.weight"])


def test_held_out_photos_are_scored_with_and_without_their_identity(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    (score,) = [line for line in lines if "held_out/loss" in line]
    assert score["step"] == 3
    assert score["held_out/photos"] == 2
    assert 0.5 < score["held_out/loss"] < 1.5
    assert score["held_out/loss_without_identity"] == pytest.approx(score["held_out/loss"], abs=0.05)
    assert score["held_out/weights"] == "averaged"
    losses = [line["total"] for line in lines if "total" in line]
    assert len(losses) == 4
    assert np.isfinite(losses).all()


def test_the_result_draws_a_dataset(finished, autoencoder, demo, tmp_path):
    words = ["--model_weights", finished / "model.pth", "--model", "uiface_tiny", "--autoencoder", autoencoder]
    words += ["--center_feature", demo.vectors, "--start_end", "0:1", "--example", 1, "--steps", 1, "--name", "x"]
    words += ["--device", "cpu", "--no-measure", "--output_dir", tmp_path]
    run(uiface_image_generation.main, *words)
    assert manifest(tmp_path / "x")[0]["t0"] == 0


def test_a_stopped_training_resumes_to_the_same_weights(finished, stopped, words, tmp_path):
    run(uiface.main, *words(tmp_path, "--resume", stopped["folder"] / "checkpoint-last.pth"))
    assert_same_training(checkpoint(tmp_path), checkpoint(finished))
    result = checkpoint(tmp_path, "model.pth")["model_uiface"]
    assert all(torch.equal(result[key], value) for key, value in checkpoint(finished)["model_ema"].items())


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(finished, words, tmp_path):
    killed = run_script("uiface.py", *words(tmp_path, "--save_every", 1), killed_at="step 3/", check=False)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint(tmp_path)["step"] == 2
    run(uiface.main, *words(tmp_path, "--resume", tmp_path))
    assert_same_training(checkpoint(tmp_path), checkpoint(finished))


@pytest.mark.slow
def test_ctrl_c_saves_and_prints_the_command_that_continues(finished, words, tmp_path):
    process = Script("uiface.py", *words(tmp_path))
    process.wait_until(lambda: "step 1/" in process.printed())
    process.signal(signal.SIGINT)
    result = process.wait()
    assert result.returncode == 130
    assert f"--resume {tmp_path}" in result.stdout + result.stderr
    run(uiface.main, *words(tmp_path, "--resume", tmp_path))
    assert_same_training(checkpoint(tmp_path), checkpoint(finished))


@pytest.mark.slow
def test_two_ranks_and_accumulated_batches_train_to_a_result(words, tmp_path):
    more = ["--batch_size", 1, "--accum_iter", 2]
    run_script("uiface.py", *words(tmp_path, *more), ranks=2)
    assert checkpoint(tmp_path)["step"] == 4
    assert (tmp_path / "model.pth").exists()


@pytest.mark.slow
def test_the_loss_falls_on_four_photos(words, training_lmdb, tmp_path):
    more = ["--epochs", 30, "--log_every", 10, "--ema", 0.9, "--augmentation", "noaug"]
    run(uiface.main, *words(tmp_path, *more))
    losses = [json.loads(line)["total"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]


def test_a_checkpoint_of_another_width_or_another_network_is_not_resumed(stopped, words, tmp_path, capsys):
    content = {key: value for key, value in stopped.items() if key != "folder"} | {"model_ema": None, "optimizer": {}}
    torch.save(content | {"model_uiface": small_unet().state_dict()}, tmp_path / "narrow.pth")
    message = refused(uiface.main, words(tmp_path / "run", "--resume", tmp_path / "narrow.pth"), capsys)
    assert "narrow.pth: these are not the weights of the network of this run" in message
    del content["model_uiface"]
    torch.save(content, tmp_path / "other.pth")
    message = refused(uiface.main, words(tmp_path / "run", "--resume", tmp_path / "other.pth"), capsys)
    assert "other.pth: not a checkpoint of this training: it has no model_uiface" in message
    assert not list((tmp_path / "run").glob("*.pth"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--autoencoder", "absent.pth"], "absent.pth: no such file of the autoencoder"),
        (["--autoencoder", "a", "b", "c"], "--autoencoder: 3 files; give one, or the released encoder and decoder"),
        (["--rep_dim", "256"], "features have width 512; --rep_dim says 256"),
        (["--batch_size", "5"], "4 records are fewer than --batch_size 5"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, more, message, tmp_path, capsys):
    assert message in refused(uiface.main, words(tmp_path / "run", *more), capsys)
    assert not list((tmp_path / "run").glob("*"))
