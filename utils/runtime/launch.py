"""How this process was started: by torchrun, by srun, as one of several by hand, or alone. Imports nothing of torch."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from models.errors import UserError

PORTS = range(20000, 30000)  # below the ports that Linux gives to outgoing connections


class Launch(NamedTuple):
    """This process is number ``rank`` of ``size``; ``by``: "torchrun", "srun", "hand" or "alone"."""

    by: str = "alone"
    rank: int = 0
    size: int = 1


def this_launch(environment=os.environ):
    """The Launch that the environment variables describe. Raises UserError when they contradict one another.

    RANK and WORLD_SIZE, as torchrun sets them, come first; WORLD_SIZE=1 makes a process independent of all others.
    Without them the tasks of one `srun` step belong together. A batch script has SLURM_NTASKS and SLURM_PROCID as well
    but runs in no step of its own, so that a plain `python` in it is alone whatever the size of the allocation.
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


def meeting_point(launch, environment=os.environ):
    """Environment variables with which torch's processes find one another. Raises UserError when there are none.

    What the user or torchrun has set stays. Under srun it is the first node of the step, and a port that follows from
    the numbers of the job and the step.
    """
    found = {name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in environment}
    if launch.by == "srun":
        number = int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        found = {"MASTER_ADDR": first_host(nodes), "MASTER_PORT": str(PORTS[number % len(PORTS)])} | found
    if len(found) < 2:
        raise UserError(
            "WORLD_SIZE is set, but not MASTER_ADDR and MASTER_PORT, where the processes meet: the host of rank 0 and "
            "a free port on it. torchrun sets them."
        )
    return found | {"RANK": str(launch.rank), "WORLD_SIZE": str(launch.size)}


def first_host(nodes):
    """The first host of a list as SLURM writes it: "gpu[03-05,9],login" -> "gpu03"."""
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", nodes).split(",")[0]


def launch_words(launch, environment=os.environ):
    """The words in front of a script with which a user starts it again as this process was started."""
    if launch.by == "torchrun":
        local_size = environment["LOCAL_WORLD_SIZE"]
        several_machines = int(local_size) != launch.size
        usual = ["torchrun", f"--nproc_per_node={local_size}"] + (["..."] if several_machines else [])
        return parent_words(Path(sys.argv[0]).name) or usual
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    return ["srun", python] if launch.by == "srun" else [python]


def parent_words(script):
    """The words of the parent process's command line before the name of the ``script``: torchrun and its options.

    Without the interpreter in front of a torchrun that is a script itself. Empty where Linux's /proc is missing, or the
    script is not named there.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().split("\0")
    except (OSError, UnicodeDecodeError):
        return []
    place = next((number for number, word in enumerate(words) if number and Path(word).name == script), 0)
    words = words[:place]
    return words[1:] if len(words) > 1 and Path(words[1]).name == "torchrun" else words


def command_line(launch, script, words, environment=os.environ):
    """What a user types to start a ``script`` (a path) with ``words`` as this process was started."""
    return shlex.join([*launch_words(launch, environment), os.path.relpath(script), *words])
