"""A generation that is killed, interrupted, out of disk space or spread over processes makes the same dataset."""

import os
import signal
import subprocess
import sys
import time

import pytest
from commands import run
from generation_runs import command, lines_written, manifest
from paths import ROOT
from processes import Script, run_script
from written_datasets import assert_same_dataset

import image_generation


@pytest.mark.slow
@pytest.mark.parametrize("format", ["folder", "lmdb"])
def test_a_dataset_whose_run_was_killed_twice_equals_an_uninterrupted_one(demo, format, tmp_path):
    """SIGKILL in the middle, twice; the finished dataset equals an finished_datasets one.

    Twice as many people as AttrOP works on at a time, so that some are written while others are not begun.
    """
    words = [*command(demo, start_end="0:16"), "--format", format]
    flags = [*words, "--output_dir", tmp_path]
    kills = 0
    for wanted in (1, 9):
        process = Script("image_generation.py", *flags)
        while process.alive() and lines_written(tmp_path / "test") < 2 * wanted:
            time.sleep(0.002)
        process.signal(signal.SIGKILL)
        kills += process.wait().returncode == -signal.SIGKILL
    assert kills >= 1
    run(image_generation.main, *flags)
    run(image_generation.main, *words, "--output_dir", tmp_path / "whole")
    assert_same_dataset(tmp_path / "test", tmp_path / "whole" / "test")


def test_ctrl_c_ends_without_a_traceback_and_the_next_run_finishes_the_dataset(demo, tmp_path):
    """Ctrl-C: no traceback, and what is finished stays."""
    flags = [*command(demo, example=12), "--output_dir", tmp_path]
    process = Script("image_generation.py", *flags)
    process.wait_until(lambda: lines_written(tmp_path / "test") >= 2)
    process.signal(signal.SIGINT)
    result = process.wait()
    assert result.returncode == 130
    assert "run the same command again" in result.stderr
    assert "Traceback" not in result.stderr
    run(image_generation.main, *flags)
    run(image_generation.main, *command(demo, example=12), "--output_dir", tmp_path / "whole")
    assert_same_dataset(tmp_path / "test", tmp_path / "whole" / "test")


@pytest.mark.parametrize("format", [pytest.param("folder", marks=pytest.mark.slow), "lmdb"])
def test_a_full_disk_is_one_line_and_the_next_run_finishes_the_dataset(demo, finished_datasets, format, tmp_path):
    """The system refuses to let files grow: the run stops with a line, and goes on when there is room."""
    flags = [*command(demo), "--output_dir", tmp_path, "--format", format]
    limit = 1800 if format == "folder" else 9000  # bytes: settings fit, a picture or an LMDB does not
    result = run_script("image_generation.py", *flags, largest_file=limit, check=False)
    assert result.returncode == 2, result.stderr
    assert "cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    image_generation.main([str(flag) for flag in flags])
    assert_same_dataset(tmp_path / "test", finished_datasets[format])


@pytest.mark.parametrize("format", [pytest.param("folder", marks=pytest.mark.slow), "lmdb"])
def test_two_ranks_make_the_same_dataset(demo, finished_datasets, format, tmp_path):
    flags = [*command(demo), "--output_dir", tmp_path, "--format", format]
    result = run_script("image_generation.py", *flags, ranks=2)
    assert "12 images made" in result.stdout
    assert_same_dataset(tmp_path / "test", finished_datasets[format])


@pytest.mark.slow
def test_more_ranks_than_identities_work(demo, tmp_path):
    """By torchrun itself."""
    flags = [*command(demo, start_end="0:1"), "--output_dir", tmp_path]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*torchrun, "image_generation.py", *map(str, flags)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "2 images made" in result.stdout
    assert len(manifest(tmp_path / "test")) == 2


@pytest.mark.slow
def test_a_dead_rank_ends_the_run_and_the_next_one_finishes_the_dataset(demo, finished_datasets, tmp_path):
    flags = [*command(demo), "--output_dir", tmp_path]
    process = Script("image_generation.py", *flags, ranks=2)
    process.wait_until(lambda: lines_written(tmp_path / "test") >= 2)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    victim = max(map(int, children.stdout.split()))
    os.kill(victim, signal.SIGKILL)
    assert process.wait().returncode != 0
    run(image_generation.main, *flags)
    assert_same_dataset(tmp_path / "test", finished_datasets["folder"])
