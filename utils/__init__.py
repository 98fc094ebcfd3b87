"""Settings of the numerical libraries that must be made before torch is loaded.

Equal commands give equal bits: the order of a sum, and with it the last bits, depends on how many threads share it. So
every process of a torchrun uses the number of threads that one process alone would use.

Waiting threads give their core up: GNU OpenMP lets a thread that has nothing to do turn in a loop for milliseconds,
which on a busy machine keeps the thread it waits for from its core. docs/performance.md has the figures.
"""

import os
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # turns of the loop; by default 300,000 and more
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # Intel MKL: the same bits for any number of threads, at no cost seen


def _torchrun_chose_one_thread():
    """torchrun sets OMP_NUM_THREADS=1 where the user set nothing; its own first environment tells."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("OMP_NUM_THREADS") != "1":
        return False
    environment = Path(f"/proc/{os.getppid()}/environ")
    return environment.exists() and b"OMP_NUM_THREADS=" not in environment.read_bytes()


if _torchrun_chose_one_thread():
    del os.environ["OMP_NUM_THREADS"]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # processes share the cores
