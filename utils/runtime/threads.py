"""Settings that must be made before torch is imported: numbers of threads, and the answer to Ctrl-C.

The same command gives bitwise the same results: the order of summation, and with it the last bits of a sum, depends on
the number of threads. So each process under torchrun uses as many threads as a single process would.

Idle threads yield their core: by default an idle GNU OpenMP thread spins for milliseconds, which on a busy machine
keeps other threads waiting. docs/performance.md gives figures.

Importing torch takes seconds, during which Ctrl-C would print a traceback. Until ``utils.cli.command`` installs its
handlers, the project's scripts end with one line instead.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # iterations of the spin loop; 300,000 or more by default
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # Intel MKL: same bits for any thread count; no measurable cost


def _torchrun_chose_one_thread() -> bool:
    """Whether OMP_NUM_THREADS=1 comes from torchrun, not from the user: torchrun's own environment lacks it then."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("OMP_NUM_THREADS") != "1":
        return False
    environment = Path(f"/proc/{os.getppid()}/environ")
    return environment.exists() and b"OMP_NUM_THREADS=" not in environment.read_bytes()


if _torchrun_chose_one_thread():
    del os.environ["OMP_NUM_THREADS"]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # processes share the cores


def stop_before_start(number: int, frame: FrameType | None) -> NoReturn:
    """SIGINT handler while a script imports its libraries: prints one line and exits with the status of Ctrl-C."""
    if os.environ.get("RANK", "0") == "0":  # torchrun stops all its processes at once
        os.write(2, b"stopped before it began.\n")
    os._exit(130)


def _is_our_script(module: ModuleType) -> bool:
    """Whether the ``__main__`` module is a script of this project. Other programs keep their own signal handling."""
    root, path = Path(__file__).resolve().parents[2], getattr(module, "__file__", None)
    return path is not None and Path(path).resolve().parent in (root, root / "scripts", root / "world")


if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    and _is_our_script(sys.modules["__main__"])
):
    signal.signal(signal.SIGINT, stop_before_start)
