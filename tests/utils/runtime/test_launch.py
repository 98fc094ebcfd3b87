"""What the variables that torchrun, SLURM and users set say about a process."""

import os
import subprocess
import sys

import pytest
import torch
from fake_cuda import fake_cuda
from paths import ROOT

from models.errors import UserError
from utils.runtime.device import compiled, resolve_device
from utils.runtime.launch import Launch, command_line, first_host, meeting_point, this_launch

BATCH = {"SLURM_JOB_ID": "70001", "SLURM_JOB_NODELIST": "a[3-9]", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
STEP = BATCH | {
    "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "gpu[03-05,9],login",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch()),
        ({"WORLD_SIZE": "1", "RANK": "0", "TORCHELASTIC_RUN_ID": "x"}, Launch()),
        ({"WORLD_SIZE": "4", "RANK": "2", "TORCHELASTIC_RUN_ID": "x"}, Launch("torchrun", 2, 4)),
        ({"WORLD_SIZE": "4", "RANK": "2"}, Launch("hand", 2, 4)),
        (BATCH, Launch()),  # a plain `python` in a batch script: the allocation's other tasks do not run
        (STEP, Launch("srun", 3, 4)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Launch()),
        (STEP | {"WORLD_SIZE": "4"}, Launch("srun", 3, 4)),  # as many batch scripts export it
        (STEP | {"WORLD_SIZE": "1"}, Launch()),  # independent runs in one step
        (STEP | {"WORLD_SIZE": "8", "RANK": "5", "TORCHELASTIC_RUN_ID": "x"}, Launch("torchrun", 5, 8)),
    ],
)
def test_rank_and_size_by_launcher(environment, launch):
    assert this_launch(environment) == launch


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "4"}, "RANK is not set"),
        ({"WORLD_SIZE": "4", "RANK": "4"}, "RANK is 4, but WORLD_SIZE is 4"),
        ({"WORLD_SIZE": "4", "RANK": "x"}, "whole numbers"),
        (BATCH | {"WORLD_SIZE": "4"}, "RANK is not set"),  # SLURM_PROCID is the batch script's own
    ],
)
def test_variables_that_contradict_one_another_are_named(environment, message):
    with pytest.raises(UserError, match=message):
        this_launch(environment)


def test_the_tasks_of_a_step_meet_on_its_first_node_at_a_port_of_their_own():
    point = meeting_point(this_launch(STEP), STEP)
    assert point == {"MASTER_ADDR": "gpu03", "MASTER_PORT": "20003", "RANK": "3", "WORLD_SIZE": "4"}
    assert meeting_point(this_launch(STEP), STEP | {"MASTER_ADDR": "ib0"})["MASTER_ADDR"] == "ib0"
    with pytest.raises(UserError, match="MASTER_ADDR"):
        meeting_point(Launch("hand", 0, 2), {"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[01-04,07],x", "n01"),
        ("rack[0-1]node[10-13]", "rack0node10"),
        ("a-[7]", "a-7"),
    ],
)
def test_the_first_host_of_a_list_of_nodes(nodes, host):
    assert first_host(nodes) == host


def test_the_command_to_resume_has_the_launcher_of_this_run():
    torchrun = {"WORLD_SIZE": "4", "RANK": "2", "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4"}
    commands = {"srun ": STEP, "torchrun --nproc_per_node=4 x.py": torchrun}
    commands["torchrun --nproc_per_node=2 ... x.py"] = torchrun | {"LOCAL_WORLD_SIZE": "2"}
    for words, environment in commands.items():
        command = command_line(this_launch(environment), "x.py", ["--seed", "1"], environment)
        assert command.startswith(words)
        assert command.endswith("x.py --seed 1")


def test_every_process_that_sees_one_gpu_uses_it():
    """--gpus-per-task=1: each task has its own, and it is number 0 to each."""
    with fake_cuda():
        assert [resolve_device("auto", rank).index for rank in (0, 1, 3)] == [0, 0, 0]
        with pytest.raises(UserError, match="offers 1 CUDA devices"):
            resolve_device("cuda:1", 0)


@pytest.mark.parametrize(("device", "variable", "language"), [("cpu", "CXX", "C[+][+]"), ("cuda", "CC", "C")])
def test_compiling_asks_for_the_compiler_of_the_device(device, variable, language, monkeypatch):
    monkeypatch.setenv(variable, "nowhere")
    with pytest.raises(UserError, match=f"needs a {language} compiler, and there is no nowhere"):
        compiled(torch.nn.Linear(1, 1), torch.device(device))
    monkeypatch.setenv(variable, sys.executable)  # anything that is there
    compiled(torch.nn.Linear(1, 1), torch.device(device))


def test_the_command_that_goes_on_has_the_options_torchrun_was_given(tmp_path):
    """A file called torchrun starts a process that reads what it was started with."""
    words = "from utils.runtime.launch import parent_words; print(parent_words('x.py'))"
    torchrun = tmp_path / "torchrun"
    torchrun.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {words!r}], check=True)")
    options = ["--nproc_per_node=2", "--master_port", "29611"]
    command = [sys.executable, torchrun, *options, "x.py", "--seed", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str([str(torchrun), *options])
