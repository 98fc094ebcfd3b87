"""What a resumed training must have in common with the run it continues, and what may change."""

import json

import numpy as np
import pytest
import torch
from fr_training import flags as fr_flags
from fr_training import train as train_encoder
from generator_training import checkpoint, flags, run
from processes import run_by_hand

from models.errors import UserError
from models.weight_files import load_file
from utils.runtime.distributed import Distributed
from utils.training.optimizers import load_optimizer
from utils.training.resuming import check_settings, run_description


@pytest.fixture(scope="module")
def begun(demo, training_lmdb, tmp_path_factory):
    """A generator's training after one of its eight steps."""
    folder = tmp_path_factory.mktemp("begun")
    run(*flags(demo, training_lmdb, folder, "--max_steps", 1))
    return folder


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch_size", 2, "--seed", 1], "--batch_size is 2, the run to resume has 1; --seed is 1, the run"),
        (["--accum_iter", 2], "--accum_iter is 2, the run to resume has 1"),
        (["--mask", "five.npy"], "the number of records is 5, the run to resume has 4"),
        (["--mask", "others.npy"], "its data or its mask has other records than the run to resume"),
    ],
)
def test_a_run_that_would_see_other_records_is_refused_by_name(
    begun, demo, training_lmdb, tmp_path, more, message, capsys,
):  # fmt: skip
    np.save(tmp_path / "five.npy", np.arange(5))
    np.save(tmp_path / "others.npy", np.arange(1, 5))
    more = [tmp_path / word if str(word).endswith(".npy") else word for word in more]
    before = (begun / "checkpoint-last.pth").read_bytes()
    with pytest.raises(SystemExit) as error:
        run(*flags(demo, training_lmdb, begun, "--resume", begun, *more))
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert (begun / "checkpoint-last.pth").read_bytes() == before


def test_another_number_of_processes_is_refused_and_a_checkpoint_that_does_not_say_goes_on(begun):
    content = checkpoint(begun)
    run_now = content["run"] | {"processes": 4}
    with pytest.raises(UserError, match="the number of processes is 4, the run to resume has 1"):
        check_settings("c.pth", content, content["args"], run_now, ["batch_size"])
    del content["run"]
    assert check_settings("c.pth", content, content["args"], run_now, ["batch_size"]) == []


def test_settings_that_may_change_are_named_and_used(begun, demo, training_lmdb, tmp_path, capsys):
    words = flags(demo, training_lmdb, tmp_path, "--resume", begun / "checkpoint-last.pth", "--log_every", 1)
    run(*words, "--weight_decay", 0.5, "--lr", 3e-4, "--warmup_epochs", 0, "--max_steps", 2)
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: the run goes on")]
    assert note == (
        "note: the run goes on with --lr 0.0003 (was not given), --warmup_epochs 0.0 (was 0.5), --weight_decay 0.5 "
        "(was 0.01)"
    )
    saved = checkpoint(tmp_path)
    for name in ("optimizer_vec2face", "optimizer_disc"):
        assert {group["weight_decay"] for group in saved[name]["param_groups"]} == {0.5}
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert line["lr"] == pytest.approx(3e-4 * (1 + np.cos(np.pi / 8)) / 2)


def test_an_encoder_goes_on_with_its_new_weight_decay_and_refuses_another_batch(tmp_path, capsys):
    train_encoder(*fr_flags(tmp_path, "--max_steps", 1))
    with pytest.raises(SystemExit):
        train_encoder(*fr_flags(tmp_path, "--resume", tmp_path, "--batch_size", 3))
    assert "--batch_size is 3, the run to resume has 2" in capsys.readouterr().err
    train_encoder(*fr_flags(tmp_path, "--resume", tmp_path, "--max_steps", 2, "--weight_decay", 0.25))
    assert "note: the run goes on with --weight_decay 0.25 (was 0.0005)" in capsys.readouterr().out
    groups = load_file(tmp_path / "checkpoint-last.pth")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.25, 0]


def test_an_optimiser_of_other_parameters_is_refused():
    models = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False)
    one, two = (torch.optim.AdamW(model.parameters()) for model in models)
    with pytest.raises(UserError, match="other parameters"):
        load_optimizer(one, two.state_dict(), "c.pth")


def test_processes_with_settings_of_their_own_are_refused(demo, training_lmdb, tmp_path):
    """The command of a run on two machines is typed on each."""
    words = flags(demo, training_lmdb, tmp_path)
    results = run_by_hand("vec2face.py", words, [*words, "--seed", 3])
    assert all(result.returncode for result in results)
    said = "".join(result.stderr for result in results)
    assert "different settings: rank 1 has --seed 3, rank 0 has --seed 0" in said
    assert not list(tmp_path.glob("*.pth"))


def test_the_digest_tells_other_records_and_their_order():
    of = [
        run_description(Distributed(), [np.array(positions)])["records_sha256"]
        for positions in ([0, 1], [0, 2], [1, 0])
    ]
    assert len(set(of)) == 3
