"""The machine and the libraries on which a table was measured."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch

from scripts.benchmark import machine_name
from scripts.gpu_checks.setting import ROOT, Setting


def describe_machine(setting: Setting) -> Iterator[tuple[str, str]]:
    """(name, value) pairs: the device, the libraries, the date and the commit where they are known."""
    device = torch.device(setting.device)
    yield "device", machine_name(device)
    if setting.on_gpu:
        major, minor = torch.cuda.get_device_capability(device)
        total = torch.cuda.get_device_properties(device).total_memory
        yield "compute capability", f"{major}.{minor}"
        yield "memory", f"{total / 1e9:.0f} GB"
        yield "GPUs", str(torch.cuda.device_count())
        yield "driver", driver_version()
        yield "CUDA", str(torch.version.cuda)
        yield "cuDNN", str(torch.backends.cudnn.version())
        if torch.distributed.is_nccl_available():
            yield "NCCL", ".".join(map(str, torch.cuda.nccl.version()))
    yield "torch", torch.__version__
    yield "Python", platform.python_version()
    if setting.quick:
        yield "models", "small, few steps (--quick)"
    yield "date", datetime.now().astimezone().isoformat(timespec="minutes")
    if commit := output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty"):
        yield "commit", commit


def driver_version() -> str:
    """The version of NVIDIA's driver, from nvidia-smi or from /proc."""
    if output := output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"):
        return output.splitlines()[0]
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().splitlines()[0] if version.exists() else "unknown"


def output_of(*words: str) -> str:
    """The output of a command, empty if the command is missing or fails."""
    if not shutil.which(words[0]):
        return ""
    result = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""
