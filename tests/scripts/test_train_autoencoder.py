"""scripts/train_autoencoder.py: what it trains, its latents of unit variance, and resuming."""

import json
import signal

import numpy as np
import pytest
import torch
from commands import refused, run
from generator_training import four_of
from processes import run_script
from uiface_training import assert_same_training, checkpoint, flags

from models.pixels import to_images
from models.uiface import AUTOENCODER_PRESETS, load_uiface_vq
from scripts import train_autoencoder
from utils.data.training_data import TrainingData

SHORT = ("--epochs", 1, "--lpips_weights", "none")


@pytest.fixture(scope="module")
def finished(training_lmdb, tmp_path_factory):
    """The folder of a training of two steps, with two held-out photos."""
    folder = tmp_path_factory.mktemp("finished")
    held_out = training_lmdb.with_name("others_of_vq.npy")
    np.save(held_out, np.array([4, 8]))
    run(train_autoencoder.main, *flags(training_lmdb, folder, "--held_out", held_out, *SHORT))
    return folder


def test_the_latents_of_the_training_photos_have_unit_variance(finished, training_lmdb):
    autoencoder = load_uiface_vq(finished / "model.pth")
    assert autoencoder.sizes == AUTOENCODER_PRESETS["uiface_tiny"]
    data = TrainingData(training_lmdb, four_of(training_lmdb), "flip")
    faces = to_images(torch.stack([data[0, index].pixels for index in range(4)]))
    latents = autoencoder.encode_faces(faces, 28)
    assert latents.shape == (4, 3, 28, 28)
    assert float(latents.square().mean()) == pytest.approx(1, abs=0.01)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(3), atol=0.01)


def test_held_out_photos_are_scored_and_the_terms_are_logged(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "held_out/psnr" in line]
    assert len(scores) == 1
    assert scores[-1]["held_out/psnr"] > 0
    assert 0.1 < scores[-1]["held_out/codes_used"] <= 1  # the codebook begins with latents of photos
    assert {"total", "pixel", "codebook"} <= lines[0].keys()
    assert lines[0]["total"] == pytest.approx(lines[0]["pixel"] + lines[0]["codebook"], abs=1e-4)


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(finished, training_lmdb, tmp_path):
    words = flags(training_lmdb, tmp_path, "--save_every", 1, *SHORT)
    killed = run_script("scripts/train_autoencoder.py", *words, killed_at="step 2/", check=False)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint(tmp_path)["step"] == 1
    run(train_autoencoder.main, *words, "--resume", tmp_path)
    assert_same_training(checkpoint(tmp_path), checkpoint(finished))
    one, two = (checkpoint(folder, "model.pth") for folder in (tmp_path, finished))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.slow
def test_the_reconstruction_improves_with_a_perceptual_loss(demo, training_lmdb, tmp_path):
    more = ["--lpips_weights", "encoder", "--id_weights", demo.encoder, "--epochs", 6, "--batch_size", 4]
    run(train_autoencoder.main, *flags(training_lmdb, tmp_path, *more))
    losses = [json.loads(line)["total"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]


def test_a_folder_that_holds_a_run_is_refused(finished, training_lmdb, capsys):
    message = refused(train_autoencoder.main, flags(training_lmdb, finished, *SHORT), capsys)
    assert "already holds a training run (checkpoint-last.pth, log.jsonl, model.pth)" in message
