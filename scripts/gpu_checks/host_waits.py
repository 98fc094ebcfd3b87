"""Counts the lines of this project at which the host waits for the GPU."""

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from scripts.gpu_checks.setting import ROOT

SYNCHRONISED = "called a synchronizing CUDA operation"  # what torch.cuda.set_sync_debug_mode warns with
OWN = (ROOT / "scripts" / "gpu_checks", ROOT / "scripts" / "gpu_check.py", ROOT / ".venv")


@contextmanager
def host_waits() -> Iterator[Counter[str]]:
    """Context manager that gives a Counter {file:line of this project: how often the host waited there}.

    PyTorch warns of copies from pageable memory, of copies to the host and of values that are read, but not of
    torch.cuda.synchronize and of events that are waited for.
    """
    lines: Counter[str] = Counter()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message, *rest, **more):
            if SYNCHRONISED in str(message):
                lines[_calling_line()] += 1
            else:
                show(message, *rest, **more)

        warnings.filterwarnings("always", SYNCHRONISED)
        warnings.showwarning = note
        _set_debug_mode("warn")
        try:
            yield lines
        finally:
            _set_debug_mode("default")


def _set_debug_mode(mode):
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(mode)


def _calling_line() -> str:
    """The innermost line of this project's code that is being run."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and not any(path.is_relative_to(folder) for folder in OWN):
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "outside this project"
