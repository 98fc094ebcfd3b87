"""What must be settled before torch is loaded: settings of the numerical libraries, and Ctrl-C.

Equal commands give equal bits: the order of a sum, and with it the last bits, depends on how many threads share it. So
every process of a torchrun uses the number of threads that one process alone would use.

Waiting threads give their core up: GNU OpenMP lets a thread that has nothing to do turn in a loop for milliseconds,
which on a busy machine keeps the thread it waits for from its core. docs/performance.md has the figures.

Loading torch takes seconds, in which a Ctrl-C would print a traceback: until ``utils.cli.command`` takes over, our
scripts end with one line.
"""

import os
import signal
import sys
import threading
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


def stop_before_start(number, frame):
    """Handler of SIGINT while a script of ours loads its libraries: one line, and the status of an interrupted run."""
    if os.environ.get("RANK", "0") == "0":  # all processes of a torchrun are stopped together
        os.write(2, b"stopped before it began.\n")
    os._exit(130)


def _is_our_script(module):
    """Whether a ``__main__`` is one of the project's scripts: other programs handle their signals themselves."""
    root, path = Path(__file__).resolve().parents[2], getattr(module, "__file__", None)
    return path is not None and Path(path).resolve().parent in (root, root / "scripts", root / "world")


if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    and _is_our_script(sys.modules["__main__"])
):
    signal.signal(signal.SIGINT, stop_before_start)
