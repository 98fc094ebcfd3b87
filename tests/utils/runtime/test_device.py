"""Settings of the device that a process computes on."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from processes import FORKS

from utils.runtime.device import keep_freed_memory


def freed_memory_kept(device):
    """Whether this process still has 200 MB that it has freed, as the system sees it."""
    before = resident()
    keep_freed_memory(torch.device(device))
    blocks = [torch.ones(50, 1024, 1024, dtype=torch.uint8) for _ in range(4)]
    assert resident() - before > 190e6
    del blocks
    return resident() - before > 190e6


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept_on_a_cpu_only():
    with ProcessPoolExecutor(1, mp_context=FORKS) as on_gpu, ProcessPoolExecutor(1, mp_context=FORKS) as on_cpu:
        assert not on_gpu.submit(freed_memory_kept, "cuda").result()
        assert on_cpu.submit(freed_memory_kept, "cpu").result()
