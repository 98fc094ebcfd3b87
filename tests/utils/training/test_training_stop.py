"""Ctrl-C and SIGTERM in a training: it saves, says how to go on, and goes on to the same weights."""

import os
import shlex
import signal

import pytest
from fr_training import assert_same, weights
from fr_training import flags as fr_flags
from fr_training import train as train_encoder
from generator_training import assert_same_training, checkpoint, flags, run
from processes import Script

from utils.runtime.distributed import Distributed
from utils.training import stop as training_stop
from utils.training.stop import StopSignal, resume_command


def interrupted(script, words, ranks=0):
    """The result of a script that gets Ctrl-C, in all its processes, as it prints its first line."""
    process = Script(script, *words, ranks=ranks)
    process.wait_until(lambda: "step 2/" in process.printed())
    process.signal(signal.SIGINT, group=True)
    return process.wait()


def printed_command(result):
    """The words of the command that the result says the training goes on with."""
    return shlex.split(result.stderr.split("To continue:\n")[1].splitlines()[0])


def test_ctrl_c_saves_and_prints_the_command_that_goes_on(demo, training_lmdb, uninterrupted, tmp_path):
    words = [*flags(demo, training_lmdb, tmp_path, "--ema", 0.9), "--workers", 1, "--resume", tmp_path]
    result = interrupted("vec2face.py", words)
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
    assert 2 <= checkpoint(tmp_path)["step"] < 8
    _, script, *words = printed_command(result)
    assert script.endswith("vec2face.py")
    assert words.count("--resume") == 1
    run(*words)
    assert_same_training(checkpoint(tmp_path), checkpoint(uninterrupted))


def test_ctrl_c_under_torchrun_saves_and_prints_it_once(demo, training_lmdb, tmp_path):
    """The terminal sends Ctrl-C to the launcher and to both ranks, and the launcher passes it on to them again."""
    result = interrupted("vec2face.py", flags(demo, training_lmdb, tmp_path, "--epochs", 4), ranks=2)
    assert 2 <= checkpoint(tmp_path)["step"] < 8
    assert result.stderr.count("To continue:") == 1
    assert "stopped at once" not in result.stderr
    assert printed_command(result)[:2] == ["torchrun", "--nproc_per_node=2"]


def test_ctrl_c_while_an_encoder_is_trained(trained, tmp_path):
    result = interrupted("scripts/train_fr.py", fr_flags(tmp_path))
    assert result.returncode == 130
    assert 2 <= weights(tmp_path)["step"] < 8
    assert not (tmp_path / "model.pth").exists()
    train_encoder(*printed_command(result)[2:])
    assert_same(weights(tmp_path), weights(trained))


@pytest.fixture
def signals():
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_second_ctrl_c_stops_at_once(signals, monkeypatch, capfd):
    monkeypatch.setattr(training_stop, "SAME_CTRL_C", 0)
    stop = StopSignal(Distributed(), "python x.py --resume out")
    assert not stop.asked()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.asked()
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt, match=r"(?s)last checkpoint are lost.*python x.py --resume out"):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_ctrl_c_that_the_launcher_repeats_is_one(signals):
    stop = StopSignal(Distributed(), "x")
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.asked()


def test_signals_are_given_back_after_a_training(demo, training_lmdb, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(*flags(demo, training_lmdb, tmp_path, "--max_steps", 1))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("given", [["--resume", "a b"], ["--resume=other"], ["--overwrite"], []])
def test_the_command_to_resume_has_one_resume_and_no_overwrite(given, monkeypatch):
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    command = resume_command("vec2face.py", ["--lr", "1", *given, "--ema", "0.9"], "my run")
    assert command.split(" ", 1)[1] == "vec2face.py --lr 1 --ema 0.9 --resume 'my run'"
