"""Counts the places of this project where the host waits for the GPU."""

import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch

from scripts.gpu_checks.setting import ROOT

SYNCHRONISED = "called a synchronizing CUDA operation"  # what torch.cuda.set_sync_debug_mode warns with
OWN = (ROOT / "scripts" / "gpu_checks", ROOT / "scripts" / "gpu_check.py", ROOT / ".venv")


@contextmanager
def host_waits():
    """Give a Counter {file:line of this project: times that an operation called there made the host wait}.

    PyTorch warns of copies from pageable memory, of copies to the host and of values that are read, but not of
    torch.cuda.synchronize and of events that are waited for.
    """
    places = Counter()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message, *rest, **more):
            if SYNCHRONISED in str(message):
                places[_place()] += 1
            else:
                show(message, *rest, **more)

        warnings.filterwarnings("always", SYNCHRONISED)
        warnings.showwarning = note
        _set_debug_mode("warn")
        try:
            yield places
        finally:
            _set_debug_mode("default")


def _set_debug_mode(mode):
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(mode)


def _place():
    """The innermost line of this project's code that is being run."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and not any(path.is_relative_to(folder) for folder in OWN):
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "outside this project"
