"""Losses that are not finite stop a training, and nothing is written after one."""

import json

import pytest
import torch
from fake_cuda import fake_cuda
from generator_training import checkpoint, flags, run

import vec2face
from models.errors import UserError
from models.transfer import Download
from utils.training.finite_check import FiniteCheck, values_to_check

NAN = torch.tensor(torch.nan)


def test_on_a_cpu_the_step_itself_raises():
    finite = FiniteCheck()
    finite.add({"pixel loss": torch.tensor(1.0)}, 6, "six")
    with pytest.raises(UserError, match="step 7: the token loss is nan; seven"):
        finite.add({"pixel loss": torch.tensor(1.0), "token loss": NAN, "total loss": NAN}, 7, "seven")


def test_on_a_gpu_the_next_step_raises_with_the_words_of_the_bad_one():
    """Fake CUDA gives every value that is read as its answer."""
    finite = FiniteCheck()
    with fake_cuda(answer=torch.nan) as waits:
        bad = {"pixel loss": torch.ones((), device="cuda")}
        finite.add(bad, 6, "six")
        assert (waits.counts["reads"], waits.counts["downloads"]) == (0, 1)
        with pytest.raises(UserError, match="step 6: the pixel loss is nan; six"):
            finite.add(bad, 7, "seven")
        with pytest.raises(UserError, match="step 7: the pixel loss is nan; seven"):
            finite.settle()
        finite.settle()  # nothing is left to check


class LateFiniteCheck(FiniteCheck):
    """On a CPU as on a GPU: what a step gave is looked at with the next step, or when it must be."""

    def add(self, values, step, remark):
        self.settle()
        stacked = torch.stack([value.detach() for value in values.values()])  # (V,)
        self.pending = Download(stacked), list(values), step, remark


@pytest.mark.parametrize("check", [FiniteCheck, LateFiniteCheck])
@pytest.mark.parametrize("every", [1, 100])
def test_neither_checkpoint_nor_log_have_the_bad_step(demo, training_lmdb, tmp_path, monkeypatch, capsys, check, every):
    """Step 0 makes the weights so large that the losses of step 1 overflow."""
    monkeypatch.setattr(vec2face, "FiniteCheck", check)
    words = ["--lr", 1e30, "--clip_grad", 1e30, "--warmup_epochs", 0, "--epochs", 1, "--max_steps", 2]
    with pytest.raises(SystemExit):
        run(*flags(demo, training_lmdb, tmp_path, *words, "--log_every", every, "--save_every", every))
    assert "step 1: the" in capsys.readouterr().err
    assert (tmp_path / "checkpoint-last.pth").exists() == (every == 1)
    if every == 1:
        assert checkpoint(tmp_path)["step"] == 1
        (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
        assert line["step"] == 1


def test_gradients_that_overflow_are_an_error_unless_a_loss_scale_answers_them():
    """Another process's loss may be the bad one: its gradients reach the weights of all."""
    losses, norms = {"pixel": torch.tensor(1.0)}, {"gradient_norm": torch.tensor(torch.inf)}
    FiniteCheck().add(values_to_check(losses, norms, torch.amp.GradScaler("cpu")), 3, "")
    with pytest.raises(UserError, match="step 3: the gradient_norm is inf"):
        FiniteCheck().add(values_to_check(losses, norms, torch.amp.GradScaler("cpu", enabled=False)), 3, "")
