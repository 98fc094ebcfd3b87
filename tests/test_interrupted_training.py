"""A generator training that is killed, stopped, out of disk space or spread over processes ends in the same weights."""

import json
import shutil
import signal

import numpy as np
import pytest
from generator_training import assert_same_training, checkpoint, flags, four_of, run
from processes import Script, run_by_hand, run_script
from training_lmdbs import content, write_lmdb

from scripts import shrink_weights


def test_a_killed_training_resumes_to_the_same_weights(demo, training_lmdb, uninterrupted, tmp_path):
    words = flags(demo, training_lmdb, tmp_path, "--ema", 0.9, "--save_every", 1)
    killed = run_script("vec2face.py", *words, killed_at="step 4/", check=False)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint(tmp_path)["step"] == 3
    run(*words, "--resume", tmp_path)
    assert_same_training(checkpoint(tmp_path), checkpoint(uninterrupted))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_training_killed_on_two_ranks_resumes_to_the_same_weights(demo, training_lmdb, tmp_path):
    """Resumed without a launcher, as on two machines of which only that of rank 0 has the checkpoint."""
    words = flags(demo, training_lmdb, tmp_path / "killed", "--ema", 0.9, "--save_every", 1)
    job = Script("vec2face.py", *words, ranks=2)
    job.wait_until((tmp_path / "killed" / "checkpoint-last.pth").exists)  # of the first of four steps
    job.signal(signal.SIGKILL, group=True)  # the launcher and both ranks
    job.wait()
    assert 0 < checkpoint(tmp_path / "killed")["step"] < 4
    local = [tmp_path / name for name in ("killed", "empty")]
    resumed = [[*words, "--output_dir", folder, "--resume", folder] for folder in local]
    assert [result.returncode for result in run_by_hand("vec2face.py", *resumed)] == [0, 0]
    assert not list(local[1].glob("*"))
    words = flags(demo, training_lmdb, tmp_path / "whole", "--ema", 0.9)
    run_script("vec2face.py", *words, ranks=2)
    assert_same_training(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole"))


def test_a_full_disk_leaves_the_last_checkpoint(demo, training_lmdb, uninterrupted, tmp_path):
    """A limit on the size of files stands for the full disk."""
    shutil.copy(uninterrupted / "checkpoint-last.pth", tmp_path)
    before = (tmp_path / "checkpoint-last.pth").read_bytes()
    words = flags(demo, training_lmdb, tmp_path, "--ema", 0.9, "--epochs", 3, "--resume", tmp_path)
    result = run_script("vec2face.py", *words, largest_file=50 << 20, check=False)
    assert result.returncode == 2
    assert "checkpoint-last.pth: cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "checkpoint-last.pth").read_bytes() == before
    assert not list(tmp_path.glob("*.next"))
    run(*words)  # room again: it goes on
    assert checkpoint(tmp_path)["step"] == 12


@pytest.mark.slow
def test_sigterm_saves_exits_0_and_the_training_resumes_to_the_same_weights(
    demo, training_lmdb, uninterrupted, tmp_path, capsys
):
    """As a cluster sends it: to all processes of the job, those that read data too."""
    words = [*flags(demo, training_lmdb, tmp_path, "--ema", 0.9), "--workers", 1]
    process = Script("vec2face.py", *words)
    process.wait_until(lambda: "step 2/" in process.printed())
    process.signal(signal.SIGTERM, group=True)
    assert process.wait().returncode == 0
    assert 2 <= checkpoint(tmp_path)["step"] < 8
    shrink = [str(tmp_path / "checkpoint-last.pth"), str(tmp_path / "small.pth"), "--ema", "--finished"]
    with pytest.raises(SystemExit):
        shrink_weights.main(shrink)
    assert "was stopped at step" in capsys.readouterr().err
    assert not (tmp_path / "small.pth").exists()
    run(*words, "--resume", tmp_path / "checkpoint-last.pth")
    assert_same_training(checkpoint(tmp_path), checkpoint(uninterrupted))
    shrink_weights.main(shrink)
    assert (tmp_path / "small.pth").exists()


def test_too_few_records_for_every_rank_are_refused(demo, training_lmdb, tmp_path):
    words = flags(demo, training_lmdb, tmp_path, "--batch_size", 3)
    result = run_script("vec2face.py", *words, ranks=2, check=False)
    assert result.returncode
    assert "4 records are fewer than --batch_size 3 x 2 processes" in result.stderr


def test_a_process_with_a_broken_record_ends_all_and_says_why(demo, training_lmdb, tmp_path):
    records = content(training_lmdb)
    records[b"3"] = b"\x00"
    path = write_lmdb(tmp_path / "x.lmdb", records)
    np.save(four_of(path), np.arange(4))
    words = flags(demo, path, tmp_path / "run", "--max_bad_records", 0)
    result = run_script("vec2face.py", *words, ranks=2, check=False)
    assert result.returncode
    assert result.stderr.count("more than --max_bad_records 0 broken records") == 1
    assert "another process" not in result.stderr
    assert "ended without a message" not in result.stderr
