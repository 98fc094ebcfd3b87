"""A mistake on the command line: one line."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

import vec2face
from scripts import train_fr


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (vec2face.main, ["--train_source", "x", "--epocs", "3"], "--epocs (did you mean --epochs?)"),
        (train_fr.main, ["--data", "x", "--batchsize=3", "--lr", "1"], "--batchsize (did you mean --batch_size?)"),
        (train_fr.main, ["--data", "x", "--xyz"], "--xyz"),
        (vec2face.main, ["--train_source", "x", "faces"], "faces"),
    ],
)
def test_an_unknown_flag_is_one_line_with_the_likely_one(main, words, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2
    assert capsys.readouterr().err == f"error: unrecognized arguments: {message}; see --help\n"


def test_other_mistakes_are_one_line_too(capsys):
    for words, message in ((["--batch_size", "0"], "must be at least 1"), ([], "required: --train_source")):
        with pytest.raises(SystemExit) as error:
            vec2face.main(words)
        printed = capsys.readouterr().err
        assert error.value.code == 2
        assert printed.count("\n") == 1
        assert message in printed


def test_every_script_has_this_parser():
    scripts = [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py"), *(ROOT / "utils").glob("*.py")]
    assert [path.name for path in scripts if "argparse.ArgumentParser" in path.read_text()] == ["cli.py"]


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
@pytest.mark.parametrize("script", ["vec2face.py", "image_generation.py", "scripts/train_fr.py", "scripts/test_fr.py"])
@pytest.mark.parametrize("policy", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_waiting_threads_give_up_their_core_unless_the_user_decides(script, policy):
    """As GNU OpenMP itself says when torch loads it."""
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, ROOT / script, "--help"]
    told = subprocess.run(
        command, env=environment | policy | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, check=True
    ).stderr
    assert ("GOMP_SPINCOUNT = '1000'" in told) == (not policy)
