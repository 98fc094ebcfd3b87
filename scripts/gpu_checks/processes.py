"""Scripts of this project in processes of their own, run to their end or killed on the way.

They are forked from the process of the check, which has all libraries. A fork of a process that has used the GPU or
several threads is of no use, so a check computes nothing before the last script has run.
"""

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.run import main as torchrun

from scripts.gpu_checks.isolation import GRACE, CheckError
from scripts.gpu_checks.setting import ROOT

FORK = multiprocessing.get_context("fork")
KILL_POLL = 0.002  # seconds between looks whether it is time to kill


def run_script(
    script: str, *words: object, log: Path, ranks: int = 0, environment: dict[str, str] | None = None
) -> str:
    """Run ``python SCRIPT WORDS``, with ``ranks`` under torchrun, to its end; returns its output.

    ``log``: the file that this goes into. Raises CheckError with the last line of the script when it fails.
    """
    with _started(script, words, log, ranks, environment) as process:
        process.join()
    printed = log.read_text(errors="replace")
    if process.exitcode:
        lines = [line for line in printed.splitlines() if line.strip()] or [f"exit status {process.exitcode}"]
        errors = [line for line in lines if line.startswith("error: ")]
        raise CheckError(f"{script}: {(errors or lines)[-1]}")
    return printed


def kill_script(script: str, *words: object, log: Path, when: Callable[[], bool]) -> None:
    """Start ``python SCRIPT WORDS`` and send it SIGKILL as soon as ``when()`` is true.

    Raises CheckError when it has ended before.
    """
    with _started(script, words, log) as process:
        while process.is_alive() and not when():
            time.sleep(KILL_POLL)
        process.kill()
        process.join()
    if process.exitcode == 0:
        raise CheckError(f"{script} ended before it could be killed")
    if process.exitcode != -9:
        raise CheckError(f"{script} failed before it could be killed; see {log.name}")


@contextmanager
def _started(script, words, log, ranks=0, environment=None):
    if torch.cuda.is_initialized():
        raise CheckError("a process that has used the GPU cannot be forked")
    process = FORK.Process(target=_become, args=(script, list(map(str, words)), log, ranks, environment or {}))
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(GRACE / 2)  # torchrun ends its processes
        process.kill()


def _become(script, words, log, ranks, environment):
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    os.chdir(ROOT)
    if ranks:
        torchrun(["--standalone", f"--nproc_per_node={ranks}", script, *words])
        return
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
