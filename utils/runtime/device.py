"""Where the models run."""

import ctypes
import os
import shutil
import sys

import torch

from models.errors import UserError

CPU = torch.device("cpu")


def resolve_device(name="auto", local_rank=0):
    """``auto``: this rank's GPU where there is one, else the CPU. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda":
        count = max(1, torch.cuda.device_count())  # one where a cluster gives each process a GPU of its own
        index = local_rank % count if device.index is None else device.index
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: this machine offers {torch.cuda.device_count()} CUDA devices.")
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return device


def compiled(module, device, fixed_shapes=False):
    """``module`` through torch.compile, with the random draws it would make without; UserError without a compiler.

    What torch generates is C++ on a CPU, and on a GPU a kernel that Triton loads with a bit of C. ``fixed_shapes``: the
    code is made for the shapes that come, and once more for others, but never for shapes in general.
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


def uncompiled(module):
    """The module that ``compiled`` was given; any other module, or None, as it is."""
    return getattr(module, "_orig_mod", module)


def keep_freed_memory(device):
    """Let this process reuse the large blocks it frees instead of handing them back to the kernel each time.

    Feature maps are tens of MB, which glibc maps afresh, page by page, for every layer: without this the
    image decoder is about an eighth slower on a CPU. Does nothing where ``device`` is another one, as the feature maps
    are not in this memory then, nor elsewhere than on Linux with glibc.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_max = -1, -4  # names of mallopt's parameters in malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
