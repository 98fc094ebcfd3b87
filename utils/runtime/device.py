"""The device that the models run on, and how they run on it: compiled or not, and with which memory settings."""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from models.errors import UserError

CPU = torch.device("cpu")
Model = TypeVar("Model", bound=Callable | None)  # a module, its forward function, or None


def resolve_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device called ``name``, which becomes the current CUDA device if it is a GPU.

    "auto" is the GPU of this ``local_rank`` if the machine has one, and the CPU otherwise. Raises UserError for a
    device that does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda":
        count = max(1, torch.cuda.device_count())  # 1 on clusters that show each process only its own GPU
        index = local_rank % count if device.index is None else device.index
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: this machine offers {torch.cuda.device_count()} CUDA devices.")
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return device


def compiled(module: Model, device: torch.device, fixed_shapes: bool = False) -> Model:
    """Compile a module or function with torch.compile. Random draws stay those of the uncompiled module.

    ``fixed_shapes``: compile for each input shape separately instead of for dynamic shapes. Raises UserError when the
    compiler that torch.compile needs is missing: a C++ compiler on a CPU, and on a GPU a C compiler, with which Triton
    builds the launchers of its kernels.
    """
    if device.type == "cuda":
        language, variable, usual = "C", "CC", "gcc" if shutil.which("gcc") else "clang"
    else:
        language, variable, usual = "C++", "CXX", "clang++" if sys.platform == "darwin" else "g++"
    compiler = os.environ.get(variable, usual)
    if not shutil.which(compiler):
        raise UserError(
            f"--compile needs a {language} compiler, and there is no {compiler}; install it or leave --compile out."
        )
    return torch.compile(module, dynamic=False if fixed_shapes else None, options={"fallback_random": True})


def uncompiled(module: Model) -> Model:
    """The module that ``compiled`` was given. Any other module, or None, is returned unchanged."""
    return getattr(module, "_orig_mod", module)


def keep_freed_memory(device: torch.device) -> None:
    """Make malloc reuse large freed blocks instead of returning them to the kernel each time.

    By default glibc maps every feature map (tens of MB) anew, page by page, which makes the image decoder about an
    eighth slower on a CPU. Does nothing if ``device`` is not a CPU, or on systems other than Linux with glibc.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
