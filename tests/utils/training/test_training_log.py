"""What a training logs: means that are means, warnings, the console line."""

import json

import pytest
import torch
from generator_training import flags, run

from utils.runtime.distributed import Distributed
from utils.training.log import Log


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_mean_is_over_the_steps_that_have_the_term(tmp_path, capsys):
    log = Log(tmp_path, Distributed(), 0, 4, shown=("total", "gradient_norm", "lpips"))
    for total, more in ((1.0, {}), (2.0, {"gradient_norm": 6.0}), (3.0, {}), (6.0, {"gradient_norm": 8.0})):
        log.add({name: torch.tensor(value) for name, value in ({"total": total} | more).items()}, 1)
    log.write(4, 0, 0.1)
    log.close()
    (line,) = lines_of(tmp_path)
    assert (line["total"], line["gradient_norm"]) == (3.0, 7.0)
    assert "total 3.0000 gradient_norm 7.0000 lr" in capsys.readouterr().out


def test_gan_terms_are_not_diluted_in_their_first_window(demo, training_lmdb, tmp_path):
    words = ["--disc_start", 0.5, "--epochs", 1]
    run(*flags(demo, training_lmdb, tmp_path / "steps", *words, "--log_every", 1))
    run(*flags(demo, training_lmdb, tmp_path / "window", *words, "--log_every", 4))
    steps, (window,) = lines_of(tmp_path / "steps"), lines_of(tmp_path / "window")
    for name in ("discriminator", "adversarial", "gradient_norm_disc"):
        values = [line[name] for line in steps if name in line]
        assert len(values) == 2
        assert window[name] == pytest.approx(sum(values) / 2, abs=2e-6), name


def test_every_term_is_on_the_console(demo, training_lmdb, tmp_path, capsys):
    words = ["--lpips_weights", "encoder", "--disc_start", 0, "--max_steps", 1, "--log_every", 1, "--detail_weight", 1]
    run(*flags(demo, training_lmdb, tmp_path, *words))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("step 1/"))
    for name in ("total", "pixel", "ssim", "lpips", "token", "identity", "detail", "adversarial", "discriminator"):
        assert f" {name} " in line


@pytest.mark.parametrize(
    ("warmup", "warning"),
    [
        (40, "warning: all of the 2 steps are warm-up (--warmup_epochs 40) and the learning rate only reaches 1.2% of"),
        (0.25, "warning: 1 of the 2 steps are warm-up (--warmup_epochs 0.25): a short run"),
        (0, None),
    ],
)
def test_a_run_within_its_warm_up_is_told(demo, training_lmdb, tmp_path, capsys, warmup, warning):
    run(*flags(demo, training_lmdb, tmp_path, "--warmup_epochs", warmup, "--max_steps", 2))
    output = capsys.readouterr().out
    assert (warning or "step 2/2") in output
    assert ("warm-up" in output) == bool(warning)
