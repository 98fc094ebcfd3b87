"""One process or many: what torchrun says about this one."""

import os
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

NEVER = timedelta(days=30)  # ranks may finish hours apart


class World(NamedTuple):
    """``rank`` of ``size`` processes; ``local_rank`` of ``local_size`` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self):
        return self.rank == 0

    def barrier(self):
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


def join_world(backend="gloo"):
    """Join the processes torchrun started; alone without torchrun."""
    if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return World()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    world = World(*(int(os.environ[name]) for name in names))
    dist.init_process_group(backend, timeout=NEVER)
    if "cpu" in backend or backend == "gloo":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))
    return world


def leave_world():
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
