"""A mistake on the command line: one line."""

import os
import signal
import subprocess
import sys

from utils.cli.command import command as as_command

import pytest
import torch
from paths import ROOT

import vec2face
from scripts import train_fr
from utils.cli import flags


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
    scripts = [
        *ROOT.glob("*.py"),
        *(path for name in ("scripts", "utils", "world") for path in (ROOT / name).rglob("*.py")),
    ]
    assert [path.name for path in scripts if "argparse.ArgumentParser" in path.read_text()] == ["flags.py"]


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
@pytest.mark.parametrize(
    "script",
    [
        "vec2face.py",
        "image_generation.py",
        *(pytest.param(f"scripts/{name}_fr.py", marks=pytest.mark.slow) for name in ("train", "test")),
    ],
)
@pytest.mark.parametrize("policy", [{}, pytest.param({"OMP_WAIT_POLICY": "ACTIVE"}, marks=pytest.mark.slow)])
def test_waiting_threads_give_up_their_core_unless_the_user_decides(script, policy):
    """As GNU OpenMP itself says when torch loads it."""
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, ROOT / script, "--help"]
    told = subprocess.run(
        command, env=environment | policy | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, check=True
    ).stderr
    assert ("GOMP_SPINCOUNT = '1000'" in told) == (not policy)


@pytest.mark.parametrize(
    ("script", "ranks", "message"),
    [
        ("vec2face.py", {}, "stopped before it began.\n"),
        ("image_generation.py", {}, "stopped before it began.\n"),
        ("scripts/test_fr.py", {}, "stopped before it began.\n"),
        ("vec2face.py", {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, ""),
    ],
)
def test_ctrl_c_while_torch_is_loaded_is_one_line(script, ranks, message):
    command = [sys.executable, "-X", "importtime", ROOT / script, "--help"]
    with subprocess.Popen(
        command, env=os.environ | ranks, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:  # a line a module that has been imported
            if line.split()[-1].startswith("torch."):
                process.send_signal(signal.SIGINT)
                break
        out, error = process.communicate()
    assert process.returncode == 130
    assert out == ""  # before it could say anything
    assert "".join(line for line in error.splitlines(True) if not line.startswith("import time:")) == message


def test_programs_that_import_the_models_keep_their_own_ctrl_c():
    program = "import signal, models; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "error: out of memory on the GPU; give a smaller --"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "error: out of memory; give a smaller --"),
    ],
)
def test_out_of_memory_is_one_line(error, told, capsys):
    def main(argv=None):
        raise error

    with pytest.raises(SystemExit):
        as_command(main)([])
    printed = capsys.readouterr().err
    assert printed.startswith(told)
    assert printed.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback():
    def main(argv=None):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        as_command(main)([])


@pytest.mark.parametrize("script", ["compare_fr", "convert_dataset", "inspect_dataset", "small_portion_training_mask"])
def test_scripts_without_models_start_without_torch(script):
    words = [sys.executable, "-c", f"import sys, scripts.{script}; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (flags.positive, "must be a whole number, not 'abc'"),
        (flags.not_negative, "must be a whole number, not 'abc'"),
        (flags.multiple_of(8), "must be a whole number, not 'abc'"),
        (flags.open_fraction, "must be a number, not 'abc'"),
        (flags.cosine, "must be a number, not 'abc'"),
        (flags.finite, "must be a number, not 'abc'"),
    ],
)
def test_a_value_that_is_no_number_is_named_in_plain_words(kind, message, capsys):
    parser = flags.make_parser("")
    parser.add_argument("--value", type=kind)
    with pytest.raises(SystemExit):
        parser.parse_args(["--value", "abc"])
    assert f"argument --value: {message}" in capsys.readouterr().err
