"""How this process was started: by torchrun, by srun, by hand as one of several, or alone. Does not import torch."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from models.errors import UserError

PORTS = range(20000, 30000)  # below the range that Linux uses for outgoing connections


class Launch(NamedTuple):
    """Rank ``rank`` of ``size`` processes, started ``by`` "torchrun", "srun" or "hand"; a single one is "alone"."""

    by: str = "alone"
    rank: int = 0
    size: int = 1


def this_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """The Launch described by the environment variables. Raises UserError when they contradict one another.

    RANK and WORLD_SIZE, as set by torchrun, take precedence; WORLD_SIZE=1 makes a process independent of all others.
    Without them, all tasks of one `srun` step form one run. A batch script also has SLURM_NTASKS and SLURM_PROCID, but
    no job step, so a plain `python` in it runs alone whatever the size of the allocation.
    """
    in_step = int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_STEP_ID" in environment
    if "WORLD_SIZE" not in environment and not in_step:
        return Launch()
    by = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "srun" if in_step else "hand"
    size = environment.get("WORLD_SIZE") or environment["SLURM_STEP_NUM_TASKS"]
    rank = environment.get("RANK") or (environment.get("SLURM_PROCID") if in_step else None)
    if size == "1":
        return Launch()
    if rank is None:
        raise UserError(f"WORLD_SIZE is {size}, but RANK is not set; torchrun sets both.")
    try:
        rank, size = int(rank), int(size)
    except ValueError as error:
        raise UserError(f"RANK and WORLD_SIZE must be whole numbers: {error}.") from error
    if not 0 <= rank < size:
        raise UserError(f"RANK is {rank}, but WORLD_SIZE is {size}: ranks go from 0 to {size - 1}.")
    return Launch(by, rank, size)


def meeting_point(launch: Launch, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables with which torch.distributed connects the processes.

    Values set by the user or by torchrun are kept. Under srun the address is the first node of the step, and the port
    is derived from the job and step numbers. Raises UserError when address or port is unknown.
    """
    address = {name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in environment}
    if launch.by == "srun":
        number = int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        address = {"MASTER_ADDR": first_host(nodes), "MASTER_PORT": str(PORTS[number % len(PORTS)])} | address
    if len(address) < 2:
        raise UserError(
            "WORLD_SIZE is set, but not MASTER_ADDR and MASTER_PORT, where the processes meet: the host of rank 0 and "
            "a free port on it. torchrun sets them."
        )
    return address | {"RANK": str(launch.rank), "WORLD_SIZE": str(launch.size)}


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: "gpu[03-05,9],login" -> "gpu03"."""
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", nodes).split(",")[0]


def launch_words(launch: Launch, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The words to put before a script's path to start it as this process was started: ["python"], for example."""
    if launch.by == "torchrun":
        local_size = environment["LOCAL_WORLD_SIZE"]
        several_machines = int(local_size) != launch.size
        usual = ["torchrun", f"--nproc_per_node={local_size}"] + (["..."] if several_machines else [])
        return parent_words(Path(sys.argv[0]).name) or usual
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    return ["srun", python] if launch.by == "srun" else [python]


def parent_words(script: str) -> list[str]:
    """The words before the file name ``script`` in the parent process's command line: torchrun and its options.

    If torchrun is itself a Python script, the interpreter before it is left out. Empty without Linux's /proc, or if the
    command line does not contain the script.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().split("\0")
    except (OSError, UnicodeDecodeError):
        return []
    index = next((number for number, word in enumerate(words) if number and Path(word).name == script), 0)
    words = words[:index]
    return words[1:] if len(words) > 1 and Path(words[1]).name == "torchrun" else words


def command_line(
    launch: Launch, script: Path | str, words: Sequence[str], environment: Mapping[str, str] = os.environ
) -> str:
    """The shell command that starts a ``script`` (a path) with ``words`` in the way this process was started."""
    return shlex.join([*launch_words(launch, environment), os.path.relpath(script), *words])
