"""train_fr.py --sharded_head: the same training as with the whole head, on any number of processes."""

import json

import pytest
import torch
from fr_training import flags, train, weights
from processes import run_script

from utils.training.resuming import step_with

SCRIPT = "scripts/train_fr.py"


def assert_close(one, two):
    for part in ("backbone", "head"):
        for key, value in one[part].items():
            torch.testing.assert_close(value, two[part][key], rtol=1e-3, atol=1e-4, msg=f"{part} {key}")


def directions_and_momentum(content):
    directions = content["head"]["directions"]
    states = content["optimizer"]["state"].values()
    return directions, next(s["momentum_buffer"] for s in states if s["momentum_buffer"].shape == directions.shape)


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """The folder of a sharded training on two processes that was stopped after its first epoch, of two steps."""
    folder = tmp_path_factory.mktemp("sharded") / "run"
    run_script(SCRIPT, *flags(folder, "--sharded_head", "--max_steps", 2), ranks=2)
    return folder


def test_a_sharded_training_is_the_training_with_the_whole_head(on_two, tmp_path):
    run_script(SCRIPT, *flags(tmp_path, "--max_steps", 2), ranks=2)
    whole, sharded = weights(tmp_path), weights(on_two)
    assert_close(whole, sharded)
    for one, two in zip(directions_and_momentum(whole), directions_and_momentum(sharded), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("more", [[], ["--sharded_head", "--sample_rate", 0.5]])
def test_a_sharded_training_goes_on_with_another_number_of_processes_or_a_whole_head(on_two, tmp_path, more, capsys):
    train(*flags(tmp_path, "--resume", on_two, "--max_steps", 5, "--lr", 0, *more))
    assert (
        "number of processes is 1 (was 2), and the step at which the run goes on 4 (was 2)" in capsys.readouterr().out
    )
    assert weights(tmp_path)["step"] == 5
    before, after = (directions_and_momentum(weights(folder)) for folder in (on_two, tmp_path))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@pytest.mark.slow
def test_mixtures_and_centroids_and_three_processes_work(on_two, trained, tmp_path):
    words = ["--sharded_head", "--real_data", "tests/photos", "--head", "adaface", "--epochs", 1]
    run_script(SCRIPT, *flags(tmp_path / "mixed", *words, "--max_steps", 2), ranks=2)
    words = ["--sharded_head", "--backbone", trained / "model.pth", "--batch_size", 3, "--max_steps", 1, "--lr", 0]
    run_script(SCRIPT, *flags(tmp_path / "centroids", *words), ranks=3)
    train(*flags(tmp_path / "whole", *words[1:]))
    assert_close(weights(tmp_path / "whole") | {"backbone": {}}, weights(tmp_path / "centroids"))


def test_the_polynomial_schedule_falls_with_the_square_of_what_is_left(tmp_path):
    """The warm-up of an epoch of four steps, then two epochs of which (8 - k) / 8 is left."""
    train(*flags(tmp_path, "--schedule", "polynomial", "--epochs", 3, "--warmup_epochs", 1, "--log_every", 1))
    rates = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    expected = [0.01 * k / 4 for k in range(4)] + [0.01 * ((8 - k) / 8) ** 2 for k in range(8)]
    assert rates == pytest.approx(expected)


def test_a_run_on_other_processes_goes_on_in_the_same_epoch():
    assert step_with(4, 2, 500, 1000, 10) == 250  # ten whole epochs
    assert step_with(2, 4, 250, 1000, 10) == 500
    assert step_with(3, 2, 51, 1000, 10) == 33  # one whole epoch, and the next one begins anew
    assert step_with(1, 2, 53, 1000, 10) == 106


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sample_rate", 0.5], "has an effect with --sharded_head only"),
        (["--sharded_head", "--mixup_loss", "logits"], "--mixup_loss logits needs a whole head"),
        (["--sharded_head", "--sample_rate", 0], "must be above 0 and at most 1, not 0"),
        (["--sharded_head", "--sample_rate", 1.5], "must be above 0 and at most 1, not 1.5"),
    ],
)
def test_bad_flags_of_a_sharded_head_are_one_clear_line(more, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        train(*flags(tmp_path, *more))
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_more_processes_than_identities_are_one_clear_line(tmp_path):
    result = run_script(SCRIPT, *flags(tmp_path, "--sharded_head", "--batch_size", 1), ranks=4, check=False)
    assert result.returncode
    assert "4 processes for 3 identities" in result.stderr
