"""Several processes: how they find one another without torchrun, and how all of them end when one does."""

import re
import signal
import time

import pytest
from processes import by_hand, run_by_hand, run_script

RANKS = "tests/ranks.py"
LONGEST = 10  # seconds from a failure to the end of all processes


def joined(processes):
    """Wait until all have joined."""
    while any("rank" not in process.printed() for process in processes):
        time.sleep(0.01)


def as_tasks(count, **more):
    """What SLURM sets for ``count`` tasks of one step on one machine, instead of RANK and WORLD_SIZE."""
    job = {"SLURM_JOB_ID": 1, "SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": count, "SLURM_JOB_NODELIST": "localhost"}
    return {name: [value] * count for name, value in job.items()} | {"SLURM_PROCID": range(count)} | more


def test_four_tasks_of_srun_on_two_nodes_work_together():
    nodes = ["a", "a", "b", "b"]
    results = run_by_hand(RANKS, *[["share"]] * 4, **as_tasks(4, SLURMD_NODENAME=nodes, RANK=None, WORLD_SIZE=None))
    assert [result.returncode for result in results] == [0, 0, 0, 0], results
    expected = [f"rank {rank} of 4, local {rank % 2} of 2\n" for rank in range(4)]
    assert [result.stdout for result in results] == expected


def test_tasks_of_one_step_with_commands_of_their_own_are_refused():
    """Slices of a dataset for instance, which would be independent runs."""
    results = run_by_hand(RANKS, ["share"], ["barrier"], **as_tasks(2, RANK=None, WORLD_SIZE=None))
    assert all(result.returncode for result in results)
    assert "".join(result.stderr for result in results).count("started with different commands") >= 1


@pytest.mark.parametrize("how", ["error", "bug"])
def test_an_error_under_torchrun_ends_the_others_with_its_own_message(how):
    result = run_script(RANKS, how, ranks=3, check=False)
    ended = time.time()
    assert result.returncode
    words = r"rank 1: error: cannot go on since ([\d.]+)\." if how == "error" else r"KeyError: 'since ([\d.]+)\.'"
    (since,) = re.findall(words, result.stderr)
    assert ended - float(since) < LONGEST
    assert "rank 0:" not in result.stderr
    assert "rank 2:" not in result.stderr


def test_a_killed_process_ends_those_that_wait_for_it_and_is_named():
    processes = by_hand(RANKS, *[["barrier"]] * 3)
    joined(processes)
    processes[1].signal(signal.SIGKILL)
    began = time.monotonic()
    results = [process.wait() for process in processes]
    assert time.monotonic() - began < LONGEST
    assert [result.returncode for result in results] == [1, -signal.SIGKILL, 1]
    assert "".join(result.stderr for result in results) == (
        "rank 2: error: rank 1 ended without a message (killed, out of memory?).\n"
    )


def test_a_signal_to_one_process_stops_all_of_them():
    began = time.monotonic()
    results = run_by_hand(RANKS, ["stop"], ["stop"])
    assert time.monotonic() - began < 2 * LONGEST
    assert [result.returncode for result in results] == [1, 130]
    assert not any("Traceback" in result.stderr for result in results)


def test_a_training_agrees_on_the_step_after_the_signal_to_one_process():
    results = run_by_hand(RANKS, *[["agree"]] * 3)
    assert [result.returncode for result in results] == [0, 0, 0], results
    assert [result.stdout.splitlines()[1] for result in results] == ["stopped at step 4"] * 3
    assert results[0].stdout.endswith("To continue:\n    x\n")
