"""scripts/plot_partition.py: the same faces as those of a dataset, and its picture."""

import numpy as np
import pytest
from commands import refused, run
from generation_runs import manifest
from uiface_models import write_small_models

import uiface_image_generation
from models.uiface import Sampling, load_uiface_unet
from scripts import plot_partition
from utils.data.images import read_image


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_small_models(tmp_path_factory.mktemp("models"))


def test_faces_switch_at_the_timesteps_of_the_dataset(demo, models, tmp_path):
    vectors, net = np.load(demo.vectors)[:4], load_uiface_unet(models[1])
    distances, never = plot_partition.trace(net, vectors, 0, Sampling(10, 0.0), seed=3)
    assert distances.shape == (4, 4)
    assert never.tolist() == [400] * 4
    threshold = float(np.median(distances[0]))
    _, t0 = plot_partition.trace(net, vectors, 0, Sampling(10, threshold), seed=3)
    assert len(set(t0)) > 1
    words = [*models, "--center_feature", demo.vectors, "--start_end", "0:4", "--example", 1, "--name", "t"]
    words += ["--seed", 3, "--threshold", threshold, "--steps", 10, "--device", "cpu", "--precision", "fp32"]
    run(uiface_image_generation.main, *words, "--no-measure", "--output_dir", tmp_path)
    assert [line["t0"] for line in manifest(tmp_path / "t")] == t0.tolist()


def test_the_picture_is_written_once(demo, models, tmp_path, capsys):
    words = [*models[:2], "--center_feature", demo.vectors, "--count", 3, "--batch_size", 2, "--steps", 5]
    words += ["--output", tmp_path / "partition.png", "--device", "cpu"]
    run(plot_partition.main, *words)
    assert "partition.png: 3 faces, " in capsys.readouterr().out
    assert read_image(tmp_path / "partition.png").shape[2] == 3
    assert "exists already" in refused(plot_partition.main, words, capsys)
    message = refused(plot_partition.main, [*words, "--overwrite", "--steps", 2], capsys)
    assert "--steps 2: fewer than two of them lie in the first stage" in message
